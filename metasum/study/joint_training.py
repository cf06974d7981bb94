"""Joint training as cells of an experiment: for each seed one network on all targets, beside which no sum stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasum.baselines.registry import ANCHORS
from metasum.results.joint_training import JointTrainingResult
from metasum.results.surroundings import Failed
from metasum.run.plan import resolve
from metasum.run.request import Request
from metasum.strangers.joint_training import train_jointly
from metasum.study.engine.cell import Cell, Failure
from metasum.study.kept import dataset, pair
from metasum.study.request import Study
from metasum.study.training import Outcomes
from metasum.training.progress import Display
from metasum.training.wandb_runs import TrackerTroubles


@dataclasses.dataclass(frozen=True)
class TrainJointly:
    """Trains one network on all targets; a finished run is taken as it is, one begun goes on."""

    path: Path
    """The run's folder."""
    anchor: str
    """The name of what is trained."""
    requests: Mapping[str, Request]
    """By target, of the run that it stands beside."""
    download: bool = False
    troubles: TrackerTroubles = dataclasses.field(default_factory=TrackerTroubles, compare=False)

    def __call__(self, needed: Mapping[str, Any], display: Display) -> JointTrainingResult:
        plans = {
            target: resolve(request, pair(request, download=self.download)) for target, request in self.requests.items()
        }
        datasets = {
            target: dataset(target, request, download=self.download) for target, request in self.requests.items()
        }
        kind = ANCHORS.named(self.anchor)
        return train_jointly(self.path, plans, datasets, kind=kind, display=display, troubles=self.troubles)


def joint_training_cells(study: Study) -> list[Cell]:
    """A cell for each anchor and seed; none needs another."""
    cells = []
    for (anchor, seed), path in _paths(study).items():
        name, like = study.short(path), ANCHORS.named(anchor).like
        tracked = {"wandb_name": name} if study.tracked else {}
        requests = {target: study.run_request(target, like, seed, **tracked) for target in study.targets}
        cells.append(Cell(name, TrainJointly(path, anchor, requests, study.download, study.troubles)))
    return cells


def jointly_trained(study: Study, outcomes: Outcomes) -> tuple[list[JointTrainingResult], list[Failed]]:
    """What became of them, anchor by anchor and seed by seed: results, and the trainings that failed."""
    results, failed = list[JointTrainingResult](), list[Failed]()
    for (anchor, seed), path in _paths(study).items():
        outcome = outcomes[study.short(path)]
        if isinstance(outcome, Failure):
            failed.append(Failed(anchor, seed, outcome.error, study.as_seen(path)))
        else:
            results.append(outcome)
    return results, failed


def _paths(study: Study) -> dict[tuple[str, int], Path]:
    """Runs' folders, by anchor and seed, among the study's own results."""
    return {(a, seed): study.place / f"{a}-seed{seed}" for a in study.anchors for seed in study.seeds}
