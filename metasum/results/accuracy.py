"""Accuracies in [0, 1]: of one network, of both sides of a pair, over seeds, over episodes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from metasum.results.value import LEFT_OUT, Value

SIDES = ("target", "support")


def retention(before: float, after: float) -> float | None:
    """The share of an accuracy that is left, in [0, 1] or a little above; None where there was none to lose."""
    return after / before if before else None


@dataclass(frozen=True)
class BeforeAfter(Value):
    """Accuracies in [0, 1] on one dataset: of its own network alone, and of the sum."""

    before: float
    after: float
    before_running: float | None = field(default=None, metadata=LEFT_OUT)
    """Of the network alone with its running batch-norm statistics, where `before` has recalibrated ones; else None."""

    @property
    def drop(self) -> float:
        return self.before - self.after

    @property
    def retention(self) -> float | None:
        return retention(self.before, self.after)


@dataclass(frozen=True)
class Evaluation(Value):
    """Accuracies on the target's and the support's held-out images."""

    target: BeforeAfter
    support: BeforeAfter

    def __str__(self) -> str:
        return "  ".join(
            f"{side} {accuracy.before:.2%} alone, {accuracy.after:.2%} in the sum" for side, accuracy in self.sides()
        )

    def sides(self) -> tuple[tuple[str, BeforeAfter], ...]:
        """The names of both sides with their accuracies, the target first."""
        return ("target", self.target), ("support", self.support)

    @property
    def mean_after(self) -> float:
        """Of the sum, both sides alike."""
        return (self.target.after + self.support.after) / 2


@dataclass(frozen=True)
class AfterSum(Value):
    """Accuracies of the sum alone."""

    target: float
    support: float


@dataclass(frozen=True)
class Spread(Value):
    """Mean and sample standard deviation over several seeds. None: of no number, and of the deviation of one."""

    mean: float | None
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Over the values that there are."""
        known = [value for value in values if value is not None]
        return cls(statistics.fmean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class EpisodeAccuracy(Value):
    """Mean accuracy over episodes, in [0, 1], or the mean of a difference."""

    mean: float
    interval: float
    """Half the width of the mean's 95 % confidence interval (Student's t over episodes)."""
    episodes: int

    def __str__(self) -> str:
        return f"{self.mean:.2%} ± {100 * self.interval:.2f} over {self.episodes} episodes"
