"""The result of joint training: one network on all targets of an experiment, which nothing is added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from metasum.config.words import Heads
from metasum.results.strangers import StrangersAccuracy
from metasum.results.value import Result, Value


@dataclass(frozen=True)
class AccuracyByDataset(Value):
    """What the network does on each dataset while it is trained: accuracies in [0, 1]."""

    datasets: Mapping[str, float]
    """With statistics recalibrated on it."""

    def plain(self) -> dict[str, Any]:
        return dict(self.datasets)

    def __str__(self) -> str:
        return "  ".join(f"{name} {share:.2%}" for name, share in self.datasets.items())


@dataclass(frozen=True)
class JointTrainingResult(Result):
    """What result.json of such a run holds."""

    kind: ClassVar[str] = "joint training"

    learner: str
    targets: tuple[str, ...]
    seed: int
    steps: int
    batch_sizes: tuple[int, ...]
    """Images of each target in a step."""
    seconds: float
    """Of training, without evaluations."""
    images_per_second: float
    peak_bytes: int
    accuracy: StrangersAccuracy
    """As that of a sum is measured: recalibrated on each target, and with one set of statistics for all."""
    evaluated_on: str
    heads: Heads
    """Whether there is one head for all targets ("summed") or one for each ("own")."""
    run: str
    """The run's folder."""
