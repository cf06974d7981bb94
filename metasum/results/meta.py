"""Meta-training's result: an initialisation for sums of networks that are trained apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from metasum.results.accuracy import BeforeAfter, Evaluation
from metasum.results.table import PERCENT, Column, Table
from metasum.results.terminal import Part
from metasum.results.value import LEFT_OUT, Result


@dataclass(frozen=True)
class MetaResult(Result):
    """What result.json of `metasum meta-train` holds."""

    kind: ClassVar[str] = "meta"

    learner: str
    datasets: tuple[str, ...]
    steps: int
    seconds: float
    images_per_second: float
    peak_bytes: int
    accuracy: Evaluation
    """Of adapted networks and their sum, on episodes of images that were kept out of meta-training."""
    initial: str
    """The file with the initialisation."""
    run: str
    coefficients: tuple[float, ...] | None = field(default=None, metadata=LEFT_OUT)


def accuracy_table(result: MetaResult, operator: str = "sum") -> Table[tuple[str, BeforeAfter]]:
    """A row for each network; `operator`: which one they were meta-trained for."""
    return Table(
        (
            Column("network", lambda row: row[0]),
            Column("alone", lambda row: row[1].before, PERCENT),
            Column(f"in the {operator}", lambda row: row[1].after, PERCENT, accent=True),
        ),
        result.accuracy.sides(),
    )


def meta_parts(result: MetaResult) -> list[Part]:
    """Accuracies of adapted networks and their sum, and where the initialisation is."""
    closing = (
        f"on episodes of images that meta-training did not see; {result.steps} steps in {result.seconds:.0f} s "
        f"({result.images_per_second:.0f} images/s), {result.peak_bytes / 2**30:.2f} GiB\n{result.initial}"
    )
    return [accuracy_table(result), closing]
