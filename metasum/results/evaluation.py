"""An evaluation's result: accuracy of a weights file on datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from metasum.results.table import PERCENT, THOUSANDTHS, Column, Table
from metasum.results.terminal import Part
from metasum.results.value import LEFT_OUT, Result


@dataclass(frozen=True)
class EvaluationResult(Result):
    """What `metasum evaluate` found."""

    kind: ClassVar[str] = "evaluation"

    file: str
    statistics: str
    """Of batch norms: "stored", "recalibrate", or "recalibrated on" some files."""
    evaluated_on: str
    accuracy: Mapping[str, float]
    """In [0, 1] on each dataset and, under "union", of all their images."""
    loss: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT)
    """Cross-entropy on each dataset, in nats; of networks of one's own."""


def evaluation_parts(result: EvaluationResult) -> list[Part]:
    """Accuracy on each dataset and on all of them."""
    columns: list[Column[tuple[str, float]]] = [
        Column("dataset", lambda row: row[0]),
        Column("accuracy", lambda row: row[1], PERCENT),
    ]
    if (losses := result.loss) is not None:
        columns.append(Column("loss", lambda row: losses.get(row[0]), THOUSANDTHS))
    table = Table(tuple(columns), tuple(result.accuracy.items()))
    closing = f"batch-norm statistics: {result.statistics}; {result.evaluated_on} images"
    return [table, closing]
