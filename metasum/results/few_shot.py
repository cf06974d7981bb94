"""The result of few-shot learners side by side, and of each one's run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from metasum.results.accuracy import EpisodeAccuracy, Spread
from metasum.results.surroundings import Failed, Settings, Tuned
from metasum.results.value import LEFT_OUT, Result, Value


@dataclass(frozen=True)
class FewShotRun(Result):
    """What result.json of one few-shot learner holds."""

    kind: ClassVar[str] = "few-shot-run"

    learner: str
    seed: int
    steps: int
    """Of meta-training; 0: it learns nothing before it sees an episode."""
    seconds: float
    episodes_per_second: float | None
    peak_bytes: int | None
    parameters: int
    """Numbers that are learnt."""
    accuracy: EpisodeAccuracy
    evaluated_on: str
    run: str
    """The name of its folder, which is in the study's."""
    best_step: int | None = field(default=None, metadata=LEFT_OUT)
    """With patience: the step of the best evaluation, whose weights these are; training stopped after `steps`."""


@dataclass(frozen=True)
class PretrainingResult(Result):
    """What result.json of the network holds that several learners begin with."""

    kind: ClassVar[str] = "few-shot-pretraining"

    steps: int
    seconds: float
    best_step: int | None = field(default=None, metadata=LEFT_OUT)
    """With patience: the step of the best evaluation, whose weights these are; training stopped after `steps`."""


@dataclass(frozen=True)
class Trunk(Value):
    """Where the pretraining of a seed stopped, and the step whose weights were kept."""

    seed: int
    steps: int
    best_step: int

    def __str__(self) -> str:
        return f"The pretrained trunk of seed {self.seed} is that of step {self.best_step}; it stopped at {self.steps}."


@dataclass(frozen=True)
class SecondDatasetResult(Result):
    """What result.json of a run holds that goes on with a second dataset."""

    kind: ClassVar[str] = "few-shot-then"

    after: EpisodeAccuracy
    """On the first dataset."""
    new_before: EpisodeAccuracy
    """On the second, before it was trained on; `new_after`: afterwards."""
    new_after: EpisodeAccuracy
    run: str
    """The name of its folder, which is in the study's."""


@dataclass(frozen=True)
class OtherWays(Value):
    """Accuracy with another number of classes than a learner was trained with."""

    learner: str
    seed: int
    ways: int
    accuracy: EpisodeAccuracy


@dataclass(frozen=True)
class OtherBaseNetwork(Value):
    """Accuracy of fast weights in an untrained base network of other filters."""

    learner: str
    seed: int
    filters: int
    accuracy: EpisodeAccuracy


@dataclass(frozen=True)
class SecondDatasetRow(Value):
    """Accuracies before and after going on with a second dataset; the `new` ones are on that."""

    learner: str
    seed: int
    before: EpisodeAccuracy
    after: EpisodeAccuracy
    new_before: EpisodeAccuracy
    new_after: EpisodeAccuracy
    run: str


@dataclass(frozen=True)
class FewShotSummary(Value):
    """One learner over its seeds."""

    learner: str
    seeds: tuple[int, ...]
    accuracy: Spread
    interval: float
    """The widest one: of a single seed, the interval over episodes is the spread there is."""
    seconds: Spread
    episodes_per_second: Spread
    peak_bytes: Spread
    parameters: Spread

    @classmethod
    def of(cls, rows: Sequence[FewShotRun]) -> Self:
        """From the learner's own rows."""
        return cls(
            learner=rows[0].learner,
            seeds=tuple(row.seed for row in rows),
            accuracy=Spread.of(row.accuracy.mean for row in rows),
            interval=max(row.accuracy.interval for row in rows),
            seconds=Spread.of(row.seconds for row in rows),
            episodes_per_second=Spread.of(row.episodes_per_second for row in rows),
            peak_bytes=Spread.of(row.peak_bytes for row in rows),
            parameters=Spread.of(row.parameters for row in rows),
        )


@dataclass(frozen=True)
class FewShotResult(Result):
    """What results.json of `metasum few-shot` holds."""

    kind: ClassVar[str] = "few-shot"

    dataset: str
    ways: int
    shots: int
    classes: Mapping[str, int]
    """How many the dataset has to train on, to validate and to test."""
    rows: tuple[FewShotRun, ...]
    summary: tuple[FewShotSummary, ...]
    differences: Mapping[str, Mapping[str, EpisodeAccuracy]]
    """By learner and other learner, the first's accuracy less the other's on the same episodes."""
    asked: tuple[OtherWays, ...]
    reparameterised: tuple[OtherBaseNetwork, ...]
    then: tuple[SecondDatasetRow, ...]
    second_dataset: str | None
    evaluated_on: str
    settings: Settings
    data: Mapping[str, str]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    few_shot: str
    """The folder."""
    tuning: Mapping[str, Tuned] | None = field(default=None, metadata=LEFT_OUT)
    """By learner, what was chosen on validation classes and all that was tried; None without a search."""
    trunks: tuple[Trunk, ...] | None = field(default=None, metadata=LEFT_OUT)
    """With patience, of the seeds that have one."""
    failed: tuple[Failed, ...] | None = field(default=None, metadata=LEFT_OUT)
    """None where nothing failed."""
