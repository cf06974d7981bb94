"""Weight matching of checkpoint files, without their network: the hidden units of transformers' MLP blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metasum.baselines.mlp_blocks import Block, Hidden, blocks_in, may_hold_units
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LEAST = 1e-9  # share of the likeness that counts as a gain


class UnitMatching(TensorMethod):
    """The average of all files, the hidden units of each MLP block in the order of the first file's.

    Each block of each other file is one assignment problem by itself, whose solution is the best order there is: units
    are as alike as the inner product of all weights and biases that write and read them. Whatever is in no block is
    averaged as it is. It looks at one block at a time, reading twice what is in blocks.
    """

    name = "weight-matching"
    summary = "Permutes the hidden units of each MLP block to match the first file's."
    paper = "Ainsworth et al. 2023, arXiv:2209.04836"

    def needs_whole(self, part: Part) -> bool:
        return may_hold_units(part.name)

    def readings(self, parts: Sequence[Part]) -> int:
        return 2

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import average_

        holding: dict[str, tuple[Hidden, list[Tensor]]] = {}
        for block in blocks_in(tensors.parts):
            orders = _orders(block, tensors)
            holding |= {hidden.part.name: (hidden, orders) for hidden in block.tensors}

        def merge(chunk: Chunk) -> Tensor:
            if chunk.part.name in holding:
                hidden, orders = holding[chunk.part.name]
                for values, order in zip(chunk.values[1:], orders, strict=True):
                    values.copy_(_in_order(values, hidden, order))
            return average_(chunk.values)

        return merge


def _orders(block: Block, tensors: Tensors) -> list[Tensor]:
    """For every file but the first, which unit comes to which place: int64 `[size]` each."""
    import torch

    from metasum.baselines.assignment import best_order

    gains = dict[int, torch.Tensor]()

    def see(chunk: Chunk) -> None:
        hidden = own[chunk.part.name]
        ours, *others = (_by_unit(values, hidden, block.size) for values in chunk.values)
        for number, theirs in enumerate(others):
            if number not in gains:
                gains[number] = ours.new_zeros(block.size, block.size)
            for mine, other in zip(ours, theirs, strict=True):
                gains[number].addmm_(mine, other.T)

    own = {hidden.part.name: hidden for hidden in block.tensors}
    for hidden in block.tensors:  # one after the other: a sum's bits depend on the order
        tensors.show(see, [hidden.part])
    orders = []
    for number in range(tensors.count - 1):
        gain = gains.pop(number)
        order, stay = best_order(gain), torch.arange(block.size)
        before = gain.diagonal().double().sum()
        gained = gain[stay, order].double().sum() > before + LEAST * before.abs()
        orders.append(order if gained else stay)
    return orders


def _by_unit(values: Tensor, hidden: Hidden, size: int) -> Tensor:
    """What a tensor holds of each unit: `[times, size, n]`."""
    return values.view(hidden.part.shape).movedim(hidden.axis, 0).reshape(hidden.times, size, -1)


def _in_order(values: Tensor, hidden: Hidden, order: Tensor) -> Tensor:
    """The tensor, flat, with its units in the given order."""
    import torch

    index = torch.cat([order + len(order) * number for number in range(hidden.times)])
    return values.view(hidden.part.shape).index_select(hidden.axis, index.to(values.device)).flatten()
