"""Sums over whole tensors that are shown in pieces: the same bits however a tensor is cut, on any number of threads."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from metasum.merging.tensors import Chunk, Tensors

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 16  # entries that are summed at once; a tensor is cut at multiples of them


def summed(tensors: Tensors, terms: Callable[[Chunk], Sequence[Tensor]]) -> dict[str, list[float]]:
    """For each part, the sums over all its entries of each of several terms, in one reading.

    Args:
        tensors: of the networks.
        terms: from a chunk to as many tensors, `[n]` in float64, for every chunk.
    """
    found: dict[str, list[list[float]]] = defaultdict(list)
    turn = threading.Lock()

    def see(chunk: Chunk) -> None:
        sums = [_block_sums(term) for term in terms(chunk)]
        with turn:
            every = found[chunk.part.name]
            every += [[] for _ in sums[len(every) :]]
            for all_sums, own in zip(every, sums, strict=True):
                all_sums += own

    tensors.show(see)
    return {name: [exact(sums) for sums in every] for name, every in found.items()}


def whole_sum(values: Tensor) -> float:
    """The sum of a whole tensor's values, `[n]`, with the bits that `summed` gives."""
    return exact(_block_sums(values))


def _block_sums(values: Tensor) -> list[float]:
    whole = len(values) // BLOCK * BLOCK
    sums: list[float] = values[:whole].view(-1, BLOCK).sum(1).tolist()
    return [*sums, float(values[whole:].sum())]


def exact(sums: Sequence[float]) -> float:
    """Their sum, rounded once, in whatever order they are; NaN where one is infinite."""
    return math.fsum(sums) if all(map(math.isfinite, sums)) else math.nan
