"""Things to be compared, run in turn, round by round, so that what slows the machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Work = Callable[[], object]


class Time(NamedTuple):
    """What one contender needed."""

    seconds: float
    """Median over the rounds."""
    ratio: float
    """To the first contender's seconds of the same round: the median."""
    ratio_range: tuple[float, float]
    """The least and the greatest."""
    rounds: list[float]
    """Seconds in each round."""

    def against(self, other: Time) -> float:
        """The median over the rounds of the ratio to another one's seconds."""
        return statistics.median(own / its for own, its in zip(self.rounds, other.rounds, strict=True))

    def in_figures(self) -> tuple[float, float, tuple[float, float]]:
        """What a row of results holds: seconds, ratio and the ratio's range."""
        return self.seconds, self.ratio, self.ratio_range


def race(contenders: Mapping[str, Work], *, repeats: int, device: torch.device) -> dict[str, Time]:
    """Times each contender `repeats` times, after one round to warm up; ratios are to the first of them.

    Args:
        contenders: by name. Every other round runs them in reverse, so that nobody always comes first.
        repeats: rounds that count.
        device: on a GPU, its kernels are waited for.
    """
    order = list(contenders)
    seconds = {name: list[float]() for name in order}
    for round_ in range(repeats + 1):
        for name in order if round_ % 2 == 0 else reversed(order):
            seconds[name].append(timed(contenders[name], device))
    found = {}
    for name, times in seconds.items():
        ratios = [own / first for own, first in zip(times, seconds[order[0]], strict=True)][1:]
        middle = statistics.median(times[1:]), statistics.median(ratios)
        found[name] = Time(*middle, (min(ratios), max(ratios)), times[1:])
    return found


def timed(work: Work, device: torch.device) -> float:
    """Seconds that `work` takes, its kernels included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    """Until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class MatrixProduct:
    """The product of two large square matrices: what the device can do where nothing else is in the way.

    Args:
        dtype: of the matrices.
        device: where they are.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        size = 8192 if device.type == "cuda" else 1024
        self._left, self._right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        self.operations = 2 * size**3

    def __call__(self) -> None:
        _ = self._left @ self._right
