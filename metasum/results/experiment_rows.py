"""An experiment's rows: a learner and a seed, before the sum, after it with the partner, after it with the stranger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from metasum.results.accuracy import retention
from metasum.results.joint_training import JointTrainingResult
from metasum.results.run import RunResult
from metasum.results.strangers import UNION, Opinions, StrangersAccuracy, UnionAccuracy, union_apart
from metasum.results.upgrade import Plain
from metasum.results.value import LEFT_OUT, Value

RECALIBRATED = "stranger_recalibrated"
"""The measure that only sums of networks without a channel in common have beside `stranger`."""
RUNNING = "before_running"
"""The measure that only networks have whose `before` is with recalibrated statistics."""
OPTIONAL = (RECALIBRATED, "ensemble", RUNNING)
MEASURES = ("before", "after", "stranger", "retention", "stranger_union_statistics", *OPTIONAL)


@dataclass(frozen=True)
class TargetAccuracy(Value):
    """Accuracies in [0, 1] on one target; its JSON has the retention, too."""

    before: float | None
    """Of the target's network alone; None of one network that was trained on all targets: there is no other."""
    after: float | None
    """Of the sum with the support that it was trained with; None likewise."""
    stranger: float
    """Of the sum with the networks that it never met: with every network's own statistics, where no channel is shared;
    else recalibrated on this dataset. Or of the one network."""
    stranger_union_statistics: float
    """With one recalibrated set of statistics for all datasets."""
    stranger_recalibrated: float | None = None
    """Recalibrated on this dataset, where `stranger` is not."""
    ensemble: float | None = None
    """Of all networks' logits, added up: what adding their functions instead of their weights gives."""
    before_running: float | None = None
    """Of the network alone with running statistics; see `BeforeAfter`."""

    @property
    def retention(self) -> float | None:
        """What the stranger leaves of `before`."""
        return None if self.before is None else retention(self.before, self.stranger)

    def plain(self) -> dict[str, Any]:
        measures = {measure: getattr(self, measure) for measure in MEASURES}
        return {name: found for name, found in measures.items() if found is not None or name not in OPTIONAL}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        return {name: found for name, found in plain.items() if name != "retention"}


class UnionAmongTargets(Value):
    """Its JSON has the union among the targets, under "accuracy"."""

    def plain(self) -> dict[str, Any]:
        found = super().plain()
        union = found.pop(UNION)
        return {**found, "accuracy": {**found["accuracy"], UNION: union}}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        if not isinstance(plain.get("accuracy"), Mapping):
            return plain
        apart = union_apart(plain["accuracy"])
        return {**plain, "accuracy": apart["datasets"], **({UNION: apart[UNION]} if UNION in apart else {})}


@dataclass(frozen=True)
class ExperimentRow(UnionAmongTargets):
    """One learner and seed."""

    learner: str
    seed: int
    seconds: float
    """Of all trainings."""
    peak_bytes: int
    """The most that one of them held."""
    accuracy: Mapping[str, TargetAccuracy]
    union: UnionAccuracy
    opinions: Opinions | None = field(default=None, metadata=LEFT_OUT)
    """None: of own heads, which say nothing of foreign images; or written by an earlier version."""
    no_merge: str | None = field(default=None, metadata=LEFT_OUT)
    """What it is where it is no merge but an anchor for merges: see `metasum.results.anchors`."""

    @classmethod
    def of(
        cls,
        results: Sequence[RunResult],
        met: StrangersAccuracy,
        opinions: Opinions | None,
        *,
        no_merge: str | None = None,
    ) -> Self:
        """From a learner's run on each target, what the sum of their target networks does, and what each says."""
        accuracy = {}
        for result in results:
            found = met.datasets[result.target]
            accuracy[result.target] = TargetAccuracy(
                before=result.accuracy.target.before,
                before_running=result.accuracy.target.before_running,
                after=result.accuracy.target.after,
                stranger=found.after,
                stranger_union_statistics=found.sum_union_statistics,
                stranger_recalibrated=None if found.sum_own_statistics is None else found.sum,
                ensemble=None if opinions is None else opinions.ensemble[result.target],
            )
        return cls(
            learner=results[0].learner,
            seed=results[0].seed,
            seconds=sum(result.seconds for result in results),
            peak_bytes=max(result.peak_bytes for result in results),
            accuracy=accuracy,
            union=met.union,
            opinions=opinions,
            no_merge=no_merge,
        )

    @classmethod
    def of_one(cls, result: JointTrainingResult, *, no_merge: str | None) -> Self:
        """From one network that was trained on all targets together."""
        return cls(
            learner=result.learner,
            seed=result.seed,
            seconds=result.seconds,
            peak_bytes=result.peak_bytes,
            accuracy={
                target: TargetAccuracy(None, None, found.after, found.sum_union_statistics)
                for target, found in result.accuracy.datasets.items()
            },
            union=result.accuracy.union,
            no_merge=no_merge,
        )
