"""An experiment's result: before the sum, after it with the partner, after it with the stranger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from metasum.config.words import Heads
from metasum.results.experiment_rows import ExperimentRow
from metasum.results.experiment_summary import ExperimentSummary
from metasum.results.pictures import Line
from metasum.results.surroundings import DatasetFacts, Failed, Settings, Tuned
from metasum.results.value import Result


@dataclass(frozen=True)
class ExperimentResult(Result):
    """What results.json of `metasum experiment` holds."""

    kind: ClassVar[str] = "experiment"

    targets: tuple[str, ...]
    support: str
    rows: tuple[ExperimentRow, ...]
    summary: tuple[ExperimentSummary, ...]
    failed: tuple[Failed, ...]
    tuning: Mapping[str, Mapping[str, Tuned]]
    """By target, and for "strangers": by learner, where something was chosen."""
    lines: Mapping[str, Line]
    """By learner: between the first seed's networks of the first two targets."""
    evaluated_on: str
    settings: Settings
    data: Mapping[str, DatasetFacts]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    experiment: str
    """The folder."""
    heads: Heads = "summed"
    """Whether sums have the networks' heads added, too, or on each dataset its own network's."""
