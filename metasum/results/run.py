"""One run's result: two networks were trained, and added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from metasum.config.words import Heads
from metasum.results.accuracy import AfterSum, BeforeAfter, Evaluation
from metasum.results.heads import heads_told
from metasum.results.settled import Alone, unsettled
from metasum.results.table import PERCENT, POINTS, Aside, Column, Table
from metasum.results.terminal import Part
from metasum.results.value import LEFT_OUT, Result


@dataclass(frozen=True)
class RunResult(Result):
    """What result.json of `metasum train` holds."""

    kind: ClassVar[str] = "run"

    learner: str
    target: str
    support: str
    seed: int
    steps: int
    seconds: float
    """Of training, without evaluations."""
    images_per_second: float
    evaluation_seconds: float
    sum_seconds: float
    """What making the sum took, or the merging, with both sides' statistics."""
    peak_bytes: int
    operator: str
    accuracy: Evaluation
    after_by_operator: Mapping[str, AfterSum]
    """Of the sum under each operator, with statistics recalibrated on each side."""
    evaluated_on: str
    """"test" or "validation" images."""
    run: str
    """The run's folder."""
    endpoints: str | None = field(default=None, metadata=LEFT_OUT)
    """The name of the run beside it whose networks it merged, and whose training it tells; None: it trained its own."""
    coefficients: tuple[float, ...] | None = field(default=None, metadata=LEFT_OUT)
    """Those that were learned for the sum."""
    statistics: str | None = field(default=None, metadata=LEFT_OUT)
    """The policy by which batch-norm statistics were settled: of the sum, and of each network alone where it is
    "recalibrate"; else alone they are the running ones. None: of an earlier version, which recalibrated the sum only,
    unless it was told otherwise."""
    heads: Heads = "summed"
    """Whether the sum has the networks' heads added, too, or on each dataset its own network's (and so has every
    earlier version's the former)."""

    def dataset(self, side: str) -> str:
        """The name of the "target"'s dataset, or of the "support"'s."""
        return self.target if side == "target" else self.support


def accuracy_table(result: RunResult) -> Table[tuple[str, BeforeAfter]]:
    """A row for each side."""
    return Table(
        (
            Column("dataset", lambda row: Aside(result.dataset(row[0]), f"({row[0]})")),
            Column("before", lambda row: row[1].before, PERCENT),
            Column(
                f"after the {result.operator}{heads_told(result.heads)}", lambda row: row[1].after, PERCENT, accent=True
            ),
            Column("change, points", lambda row: row[1].after - row[1].before, POINTS),
        ),
        result.accuracy.sides(),
        notes=unsettled(Alone(result.dataset(s), own.before, own.before_running) for s, own in result.accuracy.sides()),
    )


def run_parts(result: RunResult) -> list[Part]:
    """Accuracies before and after, and where the run is."""
    closing = (
        f"{result.steps} steps in {result.seconds:.0f} s ({result.images_per_second:.0f} images/s), "
        f"measured in {result.evaluation_seconds:.0f} s on {result.evaluated_on} images\n{result.run}"
    )
    return [accuracy_table(result), closing]
