"""What is measured of networks of any kind."""

from __future__ import annotations

from dataclasses import dataclass, field

from metasum.results.value import LEFT_OUT, Value


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
