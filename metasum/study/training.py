"""Steps 1 and 2 of a study as cells: a run for each learner, seed and target, and the choice of open settings first.

Making cells reads facts of learners and trains nothing; what has become of them is read from their outcomes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum.baselines.registry import learner_named
from metasum.learners.learner import Start
from metasum.results.run import RunResult
from metasum.results.surroundings import Failed, Settings, Tuned
from metasum.run.course import Where
from metasum.run.initialisation import learnt_initialisation
from metasum.run.plan import resolve
from metasum.run.request import Request
from metasum.run.training import run_in
from metasum.study.choosing import Choose, chosen
from metasum.study.engine.cell import Cell, Failure, Outcome
from metasum.study.kept import pair
from metasum.study.request import Study
from metasum.training.progress import Display
from metasum.training.wandb_runs import TrackerTroubles

Outcomes = Mapping[str, Outcome]


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """Trains two networks, or merges those of another run; a finished run is taken as it is, one begun goes on."""

    where: Where
    request: Request
    choice: str | None = None
    """The cell that chooses settings for it."""
    download: bool = False
    troubles: TrackerTroubles = dataclasses.field(default_factory=TrackerTroubles, compare=False)

    def __call__(self, needed: Mapping[str, Any], display: Display) -> RunResult:
        request = self.request.having(**chosen(needed, self.choice))
        datasets = pair(request, download=self.download)
        return run_in(self.where, request, datasets, download=self.download, display=display, troubles=self.troubles)


@dataclasses.dataclass(frozen=True)
class LearntStart:
    """Meta-learns the initialisation that a learner's runs start from; one that is there is taken as it is."""

    out: Path
    """Folder of all runs."""
    request: Request
    """Of any of those runs."""
    download: bool = False
    troubles: TrackerTroubles = dataclasses.field(default_factory=TrackerTroubles, compare=False)

    def __call__(self, needed: Mapping[str, Any], display: Display) -> str:
        plan = resolve(self.request, pair(self.request, download=self.download))
        settings: dict[str, Any] = {"download": self.download, "display": display, "troubles": self.troubles}
        return str(learnt_initialisation(plan, self.request, out=self.out, **settings).network.init)


def training_cells(study: Study) -> list[Cell]:
    """All of steps 1 and 2, target by target: trials and choices, then the runs, seed by seed."""
    cells = list[Cell]()
    for target in study.targets:
        for learner in study.learners:
            candidates = study.candidates(learner)
            for candidate in candidates:
                cells += _run(study, target, learner, study.seeds[0], validation=True, candidate=candidate)
            if candidates:
                cells.append(_choice(study, target, learner, candidates))
        for seed in study.seeds:
            for learner in study.learners:
                cells += _run(study, target, learner, seed)
    return list({cell.name: cell for cell in cells}.values())  # several runs may need the same one


def run_name(study: Study, target: str, learner: str, seed: int, *, validation: bool = False) -> str:
    """The name of the cell that trains a run."""
    return study.short(study.run_path(target, learner, seed, validation=validation))


def choice_name(study: Study, folder: Path, learner: str) -> str:
    """The name of the cell that chooses a learner's settings for what is in a folder: a target's runs, or sums."""
    return f"{study.short(folder)}: settings of {learner}"


def _choice(study: Study, target: str, learner: str, candidates: list[dict[str, Any]]) -> Cell:
    seed, tried = study.seeds[0], dict[str, Settings]()
    for candidate in candidates:
        tried[study.short(study.run_path(target, learner, seed, validation=True, candidate=candidate))] = candidate
    return Cell(choice_name(study, study.folder(target), learner), Choose(tried), after=tuple(tried))


def _run(
    study: Study,
    target: str,
    learner: str,
    seed: int,
    *,
    validation: bool = False,
    candidate: dict[str, Any] | None = None,
    trained_only: bool = False,
) -> list[Cell]:
    """The cell of one run, behind those of the runs that it needs; `trained_only`: see `Study.run_path`."""
    facts, cells, needs = learner_named(learner), list[Cell](), list[str]()
    which: dict[str, Any] = {"validation": validation, "trained_only": trained_only}
    path = study.run_path(target, learner, seed, candidate=candidate, **which)
    values: dict[str, Any] = dict(candidate or {}) | ({"heads": "summed"} if trained_only else {})
    if validation:
        values |= {"evaluate_on": "validation", "evaluate_every": 0}
    if study.tracked:
        values["wandb_name"] = study.short(path)
    where = Where(
        path,
        study.out,
        resume=None,
        report=not validation and study.looked_into(learner, seed),
        keep_weights=not candidate,
    )
    choose = not validation and not trained_only and bool(study.candidates(learner))
    source = None if trained_only else study.taken_from(learner, chosen=choose or bool(candidate))
    if source is not None:
        endpoints = study.source_path(target, source, seed, validation=validation)
        apart = endpoints != study.run_path(target, source, seed, validation=validation)
        cells += _run(study, target, source, seed, validation=validation, trained_only=apart)
        needs.append(cells[-1].name)
        where = dataclasses.replace(where, endpoints=endpoints)
    request = study.run_request(target, learner, seed, **values)
    if facts.start is Start.LEARNT and request["init"] is None:
        needs.append(f"meta: initialisation of {learner}")
        first = study.run_request(study.targets[0], learner, study.seeds[0])  # all have networks of one shape
        cells.append(Cell(needs[-1], LearntStart(study.out, first, study.download, study.troubles)))
    choice = choice_name(study, study.folder(target), learner) if choose else None
    work = TrainingRun(where, request, choice, study.download, study.troubles)
    return [*cells, Cell(study.short(path), work, tuple(needs), () if choice is None else (choice,))]


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


def tuning_of(study: Study, folder: Path, outcomes: Outcomes) -> dict[str, Tuned]:
    """Under each learner's name what was chosen for its runs or sums in a folder, where something could be tried."""
    found = {name: outcomes.get(choice_name(study, folder, name)) for name in study.learners}
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
