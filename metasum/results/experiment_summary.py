"""An experiment's learners over their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from metasum.results.accuracy import Spread, retention
from metasum.results.experiment_rows import MEASURES, OPTIONAL, ExperimentRow, UnionAmongTargets
from metasum.results.strangers import Opinions, UnionAccuracy
from metasum.results.value import LEFT_OUT, Value


@dataclass(frozen=True)
class TargetSpread(Value):
    """Accuracies on one target over the seeds; see `TargetAccuracy`."""

    before: Spread
    after: Spread
    stranger: Spread
    retention: Spread
    stranger_union_statistics: Spread
    stranger_recalibrated: Spread | None = field(default=None, metadata=LEFT_OUT)
    ensemble: Spread | None = field(default=None, metadata=LEFT_OUT)
    before_running: Spread | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class UnionSpread(Value):
    """Accuracies on all targets' images over the seeds; see `UnionAccuracy`."""

    sum_union_statistics: Spread
    mean_of_datasets: Spread
    sum_own_statistics: Spread | None = field(default=None, metadata=LEFT_OUT)

    @classmethod
    def of(cls, found: Sequence[UnionAccuracy]) -> Self:
        own = Spread.of(union.sum_own_statistics for union in found)
        return cls(
            Spread.of(union.sum_union_statistics for union in found),
            Spread.of(union.mean_of_datasets for union in found),
            None if own.mean is None else own,
        )


@dataclass(frozen=True)
class OpinionSpread(Value):
    """What one network says of another's dataset, over the seeds; see `Opinion`."""

    network: str
    dataset: str
    kept: Spread
    """Of the dataset's own network's accuracy, the share that is left with the other's logits added."""
    pair: Spread
    loudness: Spread
    auroc: Spread

    @classmethod
    def all_of(cls, found: Sequence[Opinions]) -> tuple[Self, ...]:
        """Of every network on every other's dataset, those first that cost most."""
        alone = [{each.dataset: each.pair for each in own.each if each.network == each.dataset} for own in found]
        spreads = []
        for same in zip(*(own.each for own in found), strict=True):
            if same[0].network == same[0].dataset:
                continue
            kept = (retention(own[o.dataset] or 0, o.pair or 0) for own, o in zip(alone, same, strict=True))
            spreads.append(
                cls(
                    same[0].network,
                    same[0].dataset,
                    Spread.of(kept),
                    *(Spread.of(getattr(o, measure) for o in same) for measure in ("pair", "loudness", "auroc")),
                )
            )
        return tuple(sorted(spreads, key=lambda spread: spread.kept.mean or 0))


@dataclass(frozen=True)
class ExperimentSummary(UnionAmongTargets):
    """One learner over its seeds."""

    learner: str
    seeds: tuple[int, ...]
    accuracy: Mapping[str, TargetSpread]
    union: UnionSpread
    seconds: Spread
    opinions: tuple[OpinionSpread, ...] | None = field(default=None, metadata=LEFT_OUT)
    """Those first that cost most; None: written by an earlier version."""
    no_merge: str | None = field(default=None, metadata=LEFT_OUT)
    """What it is where it is no merge but an anchor for merges: see `metasum.results.anchors`."""

    @classmethod
    def of(cls, rows: Sequence[ExperimentRow]) -> Self:
        """From the learner's own rows."""

        def on(target: str) -> TargetSpread:
            found = {m: [getattr(row.accuracy[target], m) for row in rows] for m in MEASURES}
            spreads = {m: Spread.of(values) for m, values in found.items() if m not in OPTIONAL or None not in values}
            return TargetSpread(**spreads)

        return cls(
            learner=rows[0].learner,
            seeds=tuple(row.seed for row in rows),
            accuracy={target: on(target) for target in rows[0].accuracy},
            union=UnionSpread.of([row.union for row in rows]),
            seconds=Spread.of(row.seconds for row in rows),
            opinions=OpinionSpread.all_of([row.opinions for row in rows if row.opinions is not None]) or None,
            no_merge=rows[0].no_merge,
        )


def summarise(rows: Sequence[ExperimentRow]) -> tuple[ExperimentSummary, ...]:
    """A row for each learner, in the order in which they first appear, over its seeds."""
    names = dict.fromkeys(row.learner for row in rows)
    return tuple(ExperimentSummary.of([row for row in rows if row.learner == name]) for name in names)
