"""Weight matching (Ainsworth et al. 2023, Git Re-Basin, arXiv:2209.04836, algorithm 1): align channels, then average.

A hidden layer's channels may stand in any order without changing the function. Every network is brought into the
order of the first that makes their weights most alike, by one assignment problem for each set of channels that must
move together, again and again in random order until nothing is gained. That the permuted network still computes what
it did is looked at on its own images before it is used. Of more than two networks, each is matched to the first by
itself; `merge-many` and `c2m3` match all to all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from metasum.baselines.channel_matching import ChannelMatching
from metasum.merging.endpoints import Endpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from metasum.merging.method import Method
    from metasum.networks.channels import Axis, ChannelGroup
    from metasum.types import Parameters

SWEEPS = 100  # more than any network here has needed
LEAST = 1e-9  # share of the likeness that counts as a gain


class WeightMatching(ChannelMatching):
    """The average of all networks, each permuted to match the first; the seed is of the order of groups visited.

    Of files without their network it permutes what it knows by name: the hidden units of transformers' MLP blocks.
    """

    name = "weight-matching"
    summary = "Permutes the other networks' channels to match the first's."
    paper = "Ainsworth et al. 2023, arXiv:2209.04836"
    random = True
    merges_files = True

    def on_files(self) -> Method:
        from metasum.baselines.unit_matching import UnitMatching

        return UnitMatching()

    def put_in_order(self, moved: nn.Module, endpoint: Endpoint, to: Endpoint, groups: Sequence[ChannelGroup]) -> None:
        import torch

        from metasum.networks.permuting import permute_network

        generator = torch.Generator().manual_seed(self.seed)
        permute_network(moved, groups, match(to.parameters, endpoint.parameters, groups, generator=generator))


def match(
    reference: Parameters, other: Parameters, groups: Sequence[ChannelGroup], *, generator: torch.Generator
) -> list[Tensor]:
    """The permutation of each group of channels of `other` that brings it closest to `reference`.

    Returns:
        For each group int64 `[channels]`: position i takes the channel with that number. Σ⟨W_ref, P W_other Pᵀ⟩ is at
        a maximum in each permutation by itself; blocks are matched by what is in them in its best order.
    """
    import torch

    matching = _Matching(reference, other, groups)
    for _ in range(SWEEPS):
        gained = [matching.improve(index) for index in torch.randperm(len(groups), generator=generator).tolist()]
        if not any(gained):
            break
    return matching.orders


class _Matching:
    """The best orders so far."""

    def __init__(self, reference: Parameters, other: Parameters, groups: Sequence[ChannelGroup]) -> None:
        import torch

        self._reference = {name: tensor.detach() for name, tensor in reference.items()}
        self._other = {name: tensor.detach() for name, tensor in other.items() if name in reference}
        self._groups = groups
        self.orders = [torch.arange(group.size) for group in groups]
        self._holding = defaultdict["Axis", list[int]](list)  # groups by axis
        for index, group in enumerate(groups):
            for axis in group.positions:
                if axis.name in self._other:
                    self._holding[axis].append(index)
        self._inner = [self._within(group) if group.of_blocks else [] for group in groups]
        self._moved: dict[tuple[str, int], tuple[Tensor, Tensor]] = {
            axis: self._composed(axis) for axis in self._holding
        }

    def _within(self, group: ChannelGroup) -> list[int]:
        """The groups of channels in a group's blocks."""
        beside = sorted({index for axis in group.positions for index in self._holding.get(axis, ())})
        return [index for index in beside if not self._groups[index].of_blocks and group.overlaps(self._groups[index])]

    def improve(self, index: int) -> bool:
        """Puts one group in its best order, of blocks with all that is in them; whether something is gained."""
        import torch

        group, names = self._groups[index], [axis.name for axis in self._axes(index)]
        if group.size == 1:
            return False
        if not group.of_blocks and len(names) == len(set(names)):
            return self._put_in_best_order(index)
        names += [axis.name for inner in self._inner[index] for axis in self._axes(inner)]
        state, before = (list(self.orders), dict(self._moved)), self._likeness(set(names))
        for each in (index, *self._inner[index]) if group.of_blocks else ():
            self._put(each, torch.arange(self._groups[each].size))
        for each in (index, *self._inner[index]):
            self._put_in_best_order(each)
        if self._likeness(set(names)) > before + LEAST * abs(before):
            return True
        self.orders, self._moved = state
        return False

    def _put_in_best_order(self, index: int) -> bool:
        """The others stay as they are; whether the order is another one than before."""
        import torch

        from metasum.baselines.assignment import best_order

        group, before = self._groups[index], self.orders[index]
        gain = torch.zeros(group.size, group.size, dtype=torch.float64)
        for axis in self._axes(index):
            ours, theirs = self._rows(index, axis)
            if any(axis in self._groups[inner].positions for inner in self._inner[index]):
                gain += _likeness_of_blocks(ours, theirs)
            else:
                gain += (ours.flatten(1) @ theirs.flatten(1).T).double().cpu()
        order = best_order(gain)
        rows = torch.arange(group.size)
        if gain[rows, order].sum() <= gain[rows, before].sum() + LEAST * gain[rows, before].sum().abs():
            return False
        self._put(index, order)
        return True

    def _axes(self, index: int) -> list[Axis]:
        return [axis for axis in self._groups[index].positions if axis.name in self._other]

    def _put(self, index: int, order: Tensor) -> None:
        self.orders[index] = order
        for axis in self._axes(index):
            self._moved[axis] = self._composed(axis)

    def _composed(self, axis: Axis) -> tuple[Tensor, Tensor]:
        """Which entry comes where along an axis: by the groups of blocks, and after them by the others."""
        import torch

        blocks, others = (torch.arange(self._other[axis.name].shape[axis.dimension]) for _ in range(2))
        for index in self._holding[axis]:
            positions = self._groups[index].positions[axis]
            if self._groups[index].of_blocks:
                blocks[positions.flatten()] = blocks[positions[self.orders[index]].flatten()]
            else:
                others[positions.flatten()] = positions[self.orders[index]].flatten()
        return blocks, others

    def _rows(self, index: int, axis: Axis) -> tuple[Tensor, Tensor]:
        """Of each channel all that the reference has, and the other with this axis in its order: `[channels, n, …]`."""
        positions = self._groups[index].positions[axis]
        blocks, _ = self._moved[axis]
        ours = self._reference[axis.name].index_select(axis.dimension, positions.flatten().to(self._device))
        theirs = self._other[axis.name].index_select(axis.dimension, blocks[positions.flatten()].to(self._device))
        theirs = self._in_order(axis.name, theirs, but=axis.dimension)
        one, two = (own.movedim(axis.dimension, 0).reshape(*positions.shape, -1) for own in (ours, theirs))
        return one, two

    @property
    def _device(self) -> torch.device:
        return next(iter(self._other.values())).device

    def _in_order(self, name: str, tensor: Tensor, but: int | None = None) -> Tensor:
        for dimension in range(tensor.ndim):
            moved = self._moved.get((name, dimension))
            if moved is not None and dimension != but:
                tensor = tensor.index_select(dimension, moved[0][moved[1]].to(tensor.device))
        return tensor

    def _likeness(self, names: Collection[str]) -> float:
        """Σ⟨W_ref, P W_other Pᵀ⟩ over the named parameters."""
        return sum(
            float((self._reference[name] * self._in_order(name, self._other[name])).double().sum())
            for name in sorted(names)
        )


def _likeness_of_blocks(ours: Tensor, theirs: Tensor) -> Tensor:
    """How alike two blocks are at best, whatever the order of the channels in them: `[blocks, blocks]`, float64."""
    import torch
    from scipy.optimize import linear_sum_assignment

    products = torch.einsum("anr,bmr->abnm", ours, theirs).double().cpu()
    gain = torch.zeros(products.shape[:2], dtype=torch.float64)
    for one, row in enumerate(products.numpy()):
        for two, product in enumerate(row):
            gain[one, two] = float(product[linear_sum_assignment(product, maximize=True)].sum())
    return gain
