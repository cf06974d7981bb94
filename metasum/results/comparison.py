"""A comparison's result: every learner on one pair over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from metasum.config.words import Heads
from metasum.results.accuracy import SIDES, BeforeAfter, Evaluation, Spread
from metasum.results.pictures import LayerGeometry, Line
from metasum.results.run import RunResult
from metasum.results.surroundings import DatasetFacts, Failed, Settings, Tuned
from metasum.results.upgrade import Plain
from metasum.results.value import LEFT_OUT, Result, Value

MEASURES = ("before", "after", "drop", "retention")
COSTS = ("seconds", "sum_seconds", "peak_bytes", "images_per_second")


@dataclass(frozen=True)
class ComparisonRow(Value):
    """One run of a comparison; its JSON has each side's drop and retention, too."""

    learner: str
    seed: int
    operator: str
    accuracy: Evaluation
    seconds: float
    sum_seconds: float
    peak_bytes: int
    images_per_second: float
    run: str
    no_merge: str | None = field(default=None, metadata=LEFT_OUT)
    """What it is where it is no merge but an anchor for merges: see `metasum.results.anchors`."""

    @classmethod
    def of(cls, result: RunResult, *, no_merge: str | None = None) -> Self:
        """What a comparison keeps of a run."""
        kept = (name for name in cls.__dataclass_fields__ if name != "no_merge")
        return cls(**{name: getattr(result, name) for name in kept}, no_merge=no_merge)

    def plain(self) -> dict[str, Any]:
        accuracy = {
            side: {**found.plain(), **{measure: getattr(found, measure) for measure in MEASURES}}
            for side, found in self.accuracy.sides()
        }
        return {**super().plain(), "accuracy": accuracy}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        accuracy = plain.get("accuracy")
        if not isinstance(accuracy, Mapping):
            return plain
        return {**plain, "accuracy": {side: _measured(found) for side, found in accuracy.items()}}


def _measured(found: Any) -> Any:
    """One side's accuracies without what follows from the rest."""
    if not isinstance(found, Mapping):
        return found
    return {name: value for name, value in found.items() if name not in ("drop", "retention")}


@dataclass(frozen=True)
class SideSpread(Value):
    """One side's accuracies over the seeds."""

    before: Spread
    after: Spread
    drop: Spread
    """before - after, seed by seed; `retention`: after / before."""
    retention: Spread
    before_running: Spread | None = field(default=None, metadata=LEFT_OUT)
    """None: not of every seed; see `BeforeAfter`."""


@dataclass(frozen=True)
class ComparisonSummary(Value):
    """One learner over its seeds."""

    learner: str
    seeds: tuple[int, ...]
    target: SideSpread
    support: SideSpread
    seconds: Spread
    sum_seconds: Spread
    peak_bytes: Spread
    images_per_second: Spread
    no_merge: str | None = field(default=None, metadata=LEFT_OUT)
    """What it is where it is no merge but an anchor for merges: see `metasum.results.anchors`."""

    @classmethod
    def of(cls, rows: Sequence[ComparisonRow]) -> Self:
        """From the learner's own rows."""
        target, support = (_spread([getattr(row.accuracy, side) for row in rows]) for side in SIDES)
        costs = {cost: Spread.of(getattr(row, cost) for row in rows) for cost in COSTS}
        seeds = tuple(row.seed for row in rows)
        return cls(rows[0].learner, seeds, target, support, **costs, no_merge=rows[0].no_merge)


def _spread(found: Sequence[BeforeAfter]) -> SideSpread:
    spreads = {measure: Spread.of(getattr(each, measure) for each in found) for measure in MEASURES}
    running = [each.before_running for each in found]
    return SideSpread(**spreads, before_running=None if None in running else Spread.of(running))


def summarise(rows: Sequence[ComparisonRow]) -> tuple[ComparisonSummary, ...]:
    """A row for each learner, in the order in which they first appear, over its seeds."""
    names = dict.fromkeys(row.learner for row in rows)
    return tuple(ComparisonSummary.of([row for row in rows if row.learner == name]) for name in names)


@dataclass(frozen=True)
class RunCurves(Value):
    """What pictures of several learners show of one run: the way of its sum, its line, its layers."""

    steps: tuple[int, ...]
    """At which it was evaluated, and the target's accuracy `after` the sum there."""
    after: tuple[float, ...]
    interpolation: Line
    layers: tuple[LayerGeometry, ...]


@dataclass(frozen=True)
class ComparisonResult(Result):
    """What results.json of `metasum compare-baselines` holds."""

    kind: ClassVar[str] = "comparison"

    target: str
    support: str
    rows: tuple[ComparisonRow, ...]
    summary: tuple[ComparisonSummary, ...]
    failed: tuple[Failed, ...]
    tuning: Mapping[str, Tuned]
    """By learner, where something was chosen."""
    first_seed: Mapping[str, RunCurves]
    """By learner, of the first seed's runs that trained networks of their own."""
    evaluated_on: str
    settings: Settings
    data: Mapping[str, DatasetFacts]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    comparison: str
    """The folder."""
    heads: Heads = "summed"
    """Whether sums have the networks' heads added, too, or on each dataset its own network's."""

    def dataset(self, side: str) -> str:
        """The name of the "target"'s dataset, or of the "support"'s."""
        return self.target if side == "target" else self.support
