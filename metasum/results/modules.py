"""What is measured of networks of any kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metasum.results.value import LEFT_OUT, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measured(Value):
    """What a network does on labelled data."""

    count: int
    """Labels that it was measured on."""
    accuracy: float | None = field(default=None, metadata=LEFT_OUT)
    """Share of labels that the largest logit is of, in [0, 1]; None where a metric was given."""
    loss: float | None = field(default=None, metadata=LEFT_OUT)
    """Cross-entropy, in nats per label; None where a metric was given."""
    metric: float | None = field(default=None, metadata=LEFT_OUT)
    """What the metric says; None where none was given."""

    @property
    def value(self) -> float:
        """The metric, or else the accuracy: more is better."""
        found = self.accuracy if self.metric is None else self.metric
        return float("nan") if found is None else found


@dataclass(frozen=True)
class LineBetweenModules(Value):
    """What networks do on the straight line between two; α is 0 at the first and 1 at the second."""

    alphas: tuple[float, ...]
    """From 0 to 1."""
    points: tuple[Measured, ...]
    """One for each α."""
    recalibrated: bool | None = field(default=None, metadata=LEFT_OUT)
    """Whether batch-norm statistics were recomputed at each point, both ends included; else they lie on the line as
    the weights do. None of networks without such."""

    @property
    def accuracy(self) -> tuple[float | None, ...]:
        """In [0, 1], for each α."""
        return tuple(point.accuracy for point in self.points)

    @property
    def loss(self) -> tuple[float | None, ...]:
        """Cross-entropy, in nats, for each α."""
        return tuple(point.loss for point in self.points)

    @property
    def metric(self) -> tuple[float | None, ...]:
        """For each α."""
        return tuple(point.metric for point in self.points)

    @property
    def barrier(self) -> float:
        """How much higher the loss is at its highest than the mean of both ends', in nats.

        max L(θ_α) - (L(θ_first) + L(θ_second)) / 2, the loss barrier of Ainsworth et al. (2023, arXiv:2209.04836,
        definition 2.2); 0 where no point is above the ends' mean. Where a metric was given, whose more is better: how
        much lower it is at its lowest than the mean of the ends'.
        """
        losses = [-point.value if point.loss is None else point.loss for point in self.points]
        return _barrier(losses)

    @property
    def error_barrier(self) -> float:
        """The same of the error, 1 - accuracy, in [0, 1]: Frankle et al. (2020, arXiv:1912.05671, section 2)."""
        return _barrier([-point.value for point in self.points])

    def figure(self) -> Figure:
        """Accuracy and loss along the line, or the metric, as a Matplotlib figure."""
        from metasum.report.lines import line_figure

        return line_figure(self)


def _barrier(heights: Sequence[float]) -> float:
    mean = (heights[0] + heights[-1]) / 2
    return math.nan if any(map(math.isnan, heights)) else max(0.0, max(heights) - mean)
