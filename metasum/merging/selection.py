"""The k-th largest of more numbers than fit into memory, exactly: digit by digit, as a radix sort would find it.

The bits of a non-negative float, read as an integer, are in the order of the floats. A pass counts how often each
value of the highest digit occurs, which says in which of them the k-th largest lies; the next pass counts the next
digit of the numbers there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from metasum.merging.tensors import Part

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
DIGITS = {torch.float32: (16, 15), torch.float64: (16, 16, 16, 15)}  # bits of each, from the highest; no sign


class Selection:
    """Finds the `kept`-th largest magnitude of each of several vectors that are shown piece by piece.

    Args:
        kept: k for each of the vectors, from 1 to the number of its entries.
        dtype: float32 or float64: the widest that will be shown.
    """

    def __init__(self, kept: Sequence[int], dtype: torch.dtype) -> None:
        self._dtype, self._left = dtype, list(DIGITS[dtype])
        self._known, self._kept = [0] * len(kept), list(kept)  # digits found; k among the numbers that have them
        self._turn = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        if self._left:
            self._counts = [torch.zeros(1 << self._left[0], dtype=torch.int64) for _ in self._known]

    @property
    def finished(self) -> bool:
        """Whether all digits are found."""
        return not self._left

    def count(self, vector: int, magnitudes: Tensor) -> None:
        """Shows a piece of one vector, `[n]`, none of it negative. Every pass shows every piece once, in any order."""
        keys = magnitudes.to(self._dtype).view(INTEGERS[self._dtype])
        bits, below = self._left[0], sum(self._left[1:])
        if len(self._left) < len(DIGITS[self._dtype]):
            keys = keys[(keys >> (bits + below)) == self._known[vector]] & ((1 << (bits + below)) - 1)
        counts = torch.bincount(keys >> below, minlength=1 << bits).cpu()
        with self._turn:
            self._counts[vector] += counts

    def narrow(self) -> None:
        """Ends a pass."""
        bits = self._left.pop(0)
        for vector, counts in enumerate(self._counts):
            at_least = counts.flip(0).cumsum(0).flip(0)  # how many numbers have this digit or a larger one
            digit = int((at_least >= self._kept[vector]).sum()) - 1
            self._kept[vector] -= int(at_least[digit] - counts[digit])
            self._known[vector] = self._known[vector] << bits | digit
        self._clear()

    @property
    def values(self) -> list[float]:
        """The k-th largest magnitude of each vector."""
        return [float(torch.tensor(bits, dtype=INTEGERS[self._dtype]).view(self._dtype)) for bits in self._known]


def just_below(value: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` that is less than `value`."""
    near = torch.tensor(value, dtype=dtype)
    return float(near if near.double() < value else near.nextafter(near.new_tensor(-torch.inf)))


def widest(parts: Sequence[Part]) -> torch.dtype:
    """float64 where a part is computed in it, else float32."""
    return torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
