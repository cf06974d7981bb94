"""The result of a sum of strangers: target networks of finished runs were added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from metasum.config.words import Heads
from metasum.results.pictures import LayerGeometry, Line, Matrix, Mistake
from metasum.results.surroundings import Settings
from metasum.results.upgrade import Plain
from metasum.results.value import LEFT_OUT, Result, Value

UNION = "union"


def union_apart(plain: Plain) -> Plain:
    """An object by dataset with the union among them as two fields, "datasets" and "union"."""
    datasets = {name: found for name, found in plain.items() if name != UNION}
    return {"datasets": datasets} | ({"union": plain[UNION]} if UNION in plain else {})


@dataclass(frozen=True)
class DatasetAccuracy(Value):
    """Accuracies in [0, 1] of the sum on one dataset."""

    sum: float
    """With statistics recalibrated on that dataset."""
    sum_union_statistics: float
    """With those of the union, which all datasets share: of the one network that can be deployed."""
    sum_own_statistics: float | None = field(default=None, metadata=LEFT_OUT)
    """With every network's own, which can be deployed as well; None where networks have channels in common."""

    @property
    def after(self) -> float:
        """What counts: with every network's own statistics where the sum has them, else recalibrated."""
        return self.sum if self.sum_own_statistics is None else self.sum_own_statistics


@dataclass(frozen=True)
class DatasetAccuracyAndAlone(DatasetAccuracy):
    """The same, and of the dataset's own network alone."""

    alone: float | None = field(kw_only=True)
    """With statistics recalibrated on it, as `sum` has them. None: no run was trained on it."""
    alone_running: float | None = field(default=None, kw_only=True, metadata=LEFT_OUT)
    """With its running ones, as `sum_own_statistics` has them; None where it has none, and of earlier versions, whose
    `alone` was with these."""

    def plain(self) -> dict[str, Any]:
        return {"alone": self.alone, **super().plain()}


@dataclass(frozen=True)
class UnionAccuracy(Value):
    """Accuracies in [0, 1] of the sum on all datasets' images, with the statistics of the union."""

    sum_union_statistics: float
    """Every image counts alike."""
    mean_of_datasets: float
    """Every dataset counts alike."""
    sum_own_statistics: float | None = field(default=None, metadata=LEFT_OUT)
    """Every image counts alike, with every network's own statistics."""


@dataclass(frozen=True)
class StrangersAccuracy(Value):
    """What a network does on several datasets and on their union."""

    datasets: Mapping[str, DatasetAccuracy]
    union: UnionAccuracy

    @property
    def mean_after(self) -> float:
        """Of the sum, all datasets alike."""
        return sum(on.after for on in self.datasets.values()) / len(self.datasets)

    def plain(self) -> dict[str, Any]:
        found = super().plain()
        return {**found["datasets"], UNION: found["union"]}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        return union_apart(plain)


@dataclass(frozen=True)
class StrangersAccuracyAndAlone(StrangersAccuracy):
    """The same beside what each dataset's own network does alone."""

    datasets: Mapping[str, DatasetAccuracyAndAlone]


@dataclass(frozen=True)
class Opinion(Value):
    """What one network, alone and with its own statistics, says of one dataset's held-out images."""

    network: str
    """Called by the dataset that it was trained on."""
    dataset: str
    loudness: float
    """Mean size of a centred logit: 0 is no opinion."""
    auroc: float | None
    """How well its greatest centred logit tells its own dataset's images from these, in [0, 1]; None on its own."""
    pair: float | None
    """Accuracy in [0, 1] on the dataset of its own network's logits and this network's, added up; on its own dataset,
    the network's alone: what others would have with no opinion. None where no network was trained on the dataset."""


@dataclass(frozen=True)
class Opinions(Value):
    """What networks say of one another's datasets, and all of them together: the ensemble, which no sum can be above
    by more than luck.
    """

    ensemble: Mapping[str, float]
    """By dataset: accuracy in [0, 1] of all networks' logits, added up; it costs as many networks' passes."""
    each: tuple[Opinion, ...]


@dataclass(frozen=True)
class SummedRun(Value):
    """A run whose target network was added."""

    run: str
    """Its folder as seen from the result's, where both lie in one --out; else its absolute path. (Format 1 had the path
    as seen from where the command ran.)"""
    target: str
    support: str
    learner: str
    seed: int
    initial_checksum: str
    data_checksum: str
    """Of the target's dataset."""
    further_data: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    """Datasets that its training read beside the pair's; None for none."""

    @property
    def saw(self) -> set[str]:
        """Names of the datasets, beside its own, whose images its networks were trained with."""
        return {self.support, *(self.further_data or ())}


@dataclass(frozen=True)
class AloneAndSum(Value):
    """Confusions; of the sum as it can be deployed: with every network's own statistics, or else the union's."""

    alone: Matrix | None
    sum: Matrix


@dataclass(frozen=True)
class LineBetween(Line):
    """Accuracy along the line between two runs' networks, called by their targets; α is 0 at the first end."""

    ends: tuple[str, str]

    def plain(self) -> dict[str, Any]:
        found = super().plain()
        start, end = found.pop("ends")
        return {"from": start, "to": end, **found}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        rest = {name: found for name, found in plain.items() if name not in ("from", "to")}
        return {**rest, "ends": (plain.get("from"), plain.get("to"))}


@dataclass(frozen=True)
class PairGeometry(Value):
    """Angles and lengths between two networks' layers."""

    first: str
    second: str
    weights: tuple[LayerGeometry, ...]
    differences: tuple[LayerGeometry, ...]
    """Of what they are apart from the initialisation that they share; () where they share none."""


@dataclass(frozen=True)
class SumResult(Result):
    """What result.json of `metasum sum` holds."""

    kind: ClassVar[str] = "sum"

    operator: str
    runs: tuple[SummedRun, ...]
    accuracy: StrangersAccuracyAndAlone
    """Under the operator; alone as well."""
    by_operator: Mapping[str, StrangersAccuracy]
    confusion: Mapping[str, AloneAndSum]
    mistakes: Mapping[str, tuple[Mistake, ...]]
    same_initialisation: bool
    evaluated_on: str
    merging: Settings
    calibration_batches: int
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    interpolation: tuple[LineBetween, ...]
    geometry: tuple[PairGeometry, ...]
    sum: str
    """The folder; of a result that was read, the one that it was read from."""
    export: str | None = field(default=None, metadata=LEFT_OUT)
    """The file that was asked for; with own heads there is one for each dataset instead, "-DATASET" in its name."""
    heads: Heads = "summed"
    """Whether the networks' heads are summed, too, or each dataset has the one of the run that was trained on it."""
    opinions: Opinions | None = field(default=None, metadata=LEFT_OUT)
    """None: of own heads, which say nothing of foreign images; or written by an earlier version."""

    @classmethod
    def read(cls, path: Path) -> Self:
        return replace(super().read(path), sum=str(path.parent))
