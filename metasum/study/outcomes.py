"""From the outcomes of a study's cells to what its results say of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from metasum.results.run import RunResult
from metasum.results.surroundings import Failed, Tuned
from metasum.study.engine.cell import Cell, Failure, Outcome
from metasum.study.request import Study
from metasum.study.training import LearntStart, TrainingRun, choice_name, run_name

Outcomes = Mapping[str, Outcome]


def runs_of(study: Study, target: str, outcomes: Outcomes) -> list[RunResult]:
    """The results of a target's runs, learner by learner and seed by seed; `run` is as seen from the study's folder."""
    found = []
    for learner in study.learners:
        for seed in study.seeds:
            result = outcomes[run_name(study, target, learner, seed)]
            if not isinstance(result, Failure):
                path = study.run_path(target, learner, seed)  # it may have been trained elsewhere, and moved
                found.append(dataclasses.replace(result, run=study.as_seen(path)))
    return found


def tuning_of(study: Study, target: str, outcomes: Outcomes) -> dict[str, Tuned]:
    """Under each learner's name what was chosen for it on a target, where something could be tried."""
    found = {name: outcomes.get(choice_name(study, target, name)) for name in study.learners}
    return {name: tuned for name, tuned in found.items() if isinstance(tuned, Tuned) and tuned.tried}


def failures_of(study: Study, cells: Sequence[Cell], outcomes: Outcomes) -> list[Failed]:
    """The trainings that failed, and those that they left without what they need."""
    found = []
    for cell in cells:
        outcome, work = outcomes[cell.name], cell.work
        if isinstance(outcome, Failure) and isinstance(work, TrainingRun | LearntStart):
            path = work.where.path if isinstance(work, TrainingRun) else work.out / "meta"
            request: Any = work.request
            found.append(Failed(request["learner"], request["seed"], outcome.error, study.as_seen(path)))
    return found
