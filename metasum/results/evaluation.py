"""An evaluation's result: accuracy of a weights file on datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from metasum.results.table import PERCENT, Column, Table
from metasum.results.terminal import Part
from metasum.results.value import Result


@dataclass(frozen=True)
class EvaluationResult(Result):
    """What `metasum evaluate` found."""

    kind: ClassVar[str] = "evaluation"

    file: str
    statistics: str
    """Of batch norms: "stored" or "recalibrate"."""
    evaluated_on: str
    accuracy: Mapping[str, float]
    """In [0, 1] on each dataset and, under "union", of all their images."""


def evaluation_parts(result: EvaluationResult) -> list[Part]:
    """Accuracy on each dataset and on all of them."""
    table: Table[tuple[str, float]] = Table(
        (
            Column("dataset", lambda row: row[0]),
            Column("accuracy", lambda row: row[1], PERCENT),
        ),
        tuple(result.accuracy.items()),
    )
    closing = f"{result.statistics} statistics, {result.evaluated_on} images"
    return [table, closing]
