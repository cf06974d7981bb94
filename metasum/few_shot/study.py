"""The study as a plan: which cells there are, what each needs, and what has become of them as one result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum.baselines.registry import FEW_SHOT
from metasum.errors import MetaSumError
from metasum.few_shot.cells import Ask, GoOn, Learn, Pretrain, shares_of
from metasum.few_shot.config import EpisodesConfig, PretrainingConfig, QuestionsConfig
from metasum.few_shot.course import Course
from metasum.few_shot.measuring import differences
from metasum.few_shot.request import FewShotRequest
from metasum.results.few_shot import (
    FewShotResult,
    FewShotRun,
    FewShotSummary,
    OtherBaseNetwork,
    OtherWays,
    SecondDatasetResult,
    SecondDatasetRow,
    Trunk,
)
from metasum.results.surroundings import Failed
from metasum.run.description import describe_surroundings
from metasum.study.engine.cell import Cell, Failure, Outcome
from metasum.tasks.few_shot import FewShotDataset, load_few_shot


def plan_study(
    request: FewShotRequest,
    learners: Sequence[str] | None,
    *,
    seeds: int = 1,
    out: Path = Path("runs"),
    download: bool = False,
) -> FewShotStudy:
    """The study, with all checks that need no training; arguments as `few_shot` has them."""
    names = list(FEW_SHOT) if learners is None else list(learners)
    request.check(names)
    asked, questions = request.section(EpisodesConfig), request.section(QuestionsConfig)
    root = Path(asked.data_root)
    dataset = load_few_shot(asked.dataset, root=root, download=download)
    second = None if questions.then is None else load_few_shot(questions.then, root=root, download=download)
    folder = out / "few-shot" / f"{asked.dataset}-{asked.ways}way-{asked.shots}shot"
    courses = [
        Course(request, name, seed, dataset, folder) for seed in range(asked.seed, asked.seed + seeds) for name in names
    ]
    study = FewShotStudy(request, questions, folder, second, courses)
    study.check()
    return study


@dataclasses.dataclass(frozen=True)
class FewShotStudy:
    """Learners and seeds, and what is done with each."""

    request: FewShotRequest
    questions: QuestionsConfig
    folder: Path
    second: FewShotDataset | None
    courses: Sequence[Course]
    """One for each seed and learner, the learners of the first seed first."""

    def check(self) -> None:
        """Raises UsageError where a dataset cannot give the episodes, or a folder holds a run of other settings."""
        first = self.courses[0]
        for course in self.courses:
            _ = course.plan  # refuses what a learner does not take
        for course in (first, *([] if self.second is None else [first.on(self.second)])):
            for part in ("train", "validation", course.plan.episodes.evaluate_on):
                course.episodes(part)
        for ways in self.questions.test_ways:
            first.episodes(first.plan.episodes.evaluate_on, ways=ways)
        for cell in self.cells():
            if isinstance(cell.work, Pretrain | Learn | GoOn):
                cell.work.check()

    def cells(self) -> list[Cell]:
        """Each seed's trunk where a learner starts from it, each learner, and what comes after it."""
        found: dict[str, Cell] = {}
        for course in self.courses:
            plan = course.plan
            trunks = (plan.pretrained_name,) if plan.learner_class.pretrained else ()
            for name in trunks:
                found.setdefault(name, Cell(name, Pretrain(course)))
            found[plan.name] = Cell(plan.name, Learn(course), trunks)
            ask = self.ask(course)
            if ask.ways or ask.filters:
                found[ask.name] = Cell(ask.name, ask, (plan.name,))
            if (go_on := self.go_on(course)) is not None:
                found[go_on.name] = Cell(go_on.name, go_on, (plan.name,))
        return list(found.values())

    def ask(self, course: Course) -> Ask:
        """What a learner can be asked of all that is asked."""
        learner, questions = course.plan.learner_class, self.questions
        ways = questions.test_ways if learner.other_ways else ()
        return Ask(course, ways, questions.base_filters if learner.other_filters else ())

    def go_on(self, course: Course) -> GoOn | None:
        """A learner's work on the second dataset; None where there is none."""
        if self.second is None or not course.plan.learner_class.meta_trains:
            return None
        return GoOn(course, self.second, self.questions.then_steps)


def conclude(study: FewShotStudy, outcomes: Mapping[str, Outcome]) -> FewShotResult:
    """What results.json holds; raises MetaSumError where no learner has a result, with the first failure's sentence."""
    done = {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, Failure)}
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    rows: list[FewShotRun] = [done[course.plan.name] for course in study.courses if course.plan.name in done]
    if not rows:
        raise MetaSumError(f"{failures[0].cell} failed: {failures[0].error}")
    answers = [answer for course in study.courses for answer in done.get(study.ask(course).name, ())]
    dataset, asked = study.courses[0].dataset, study.courses[0].plan.episodes
    names = list(dict.fromkeys(row.learner for row in rows))
    return FewShotResult(
        dataset=asked.dataset,
        ways=asked.ways,
        shots=asked.shots,
        classes={part: len(classes) for part, classes in dataset.classes.items()},
        rows=tuple(rows),
        summary=tuple(FewShotSummary.of([row for row in rows if row.learner == name]) for name in names),
        differences=differences(_shares_by_learner(study, rows)),
        asked=tuple(answer for answer in answers if isinstance(answer, OtherWays)),
        reparameterised=tuple(answer for answer in answers if isinstance(answer, OtherBaseNetwork)),
        then=tuple(_second_rows(study, done)),
        second_dataset=study.questions.then,
        evaluated_on=asked.evaluate_on,
        settings=_settings(study),
        data={"name": dataset.name, "source": dataset.source, "checksum": dataset.checksum},
        **describe_surroundings(),
        few_shot=str(study.folder),
        trunks=tuple(_trunks(study, done)) or None,
        failed=tuple(_failed(study, failures)) or None,
    )


def _trunks(study: FewShotStudy, done: Mapping[str, Any]) -> list[Trunk]:
    """Where pretraining stopped by itself, seed by seed."""
    names = {course.plan.pretrained_name: course.seed for course in study.courses}
    found = {seed: done[name] for name, seed in names.items() if name in done}
    return [Trunk(seed, own.steps, own.best_step) for seed, own in found.items() if own.best_step is not None]


def _second_rows(study: FewShotStudy, done: Mapping[str, Any]) -> list[SecondDatasetRow]:
    rows = []
    for course in study.courses:
        go_on = study.go_on(course)
        if go_on is not None and go_on.name in done:
            before: FewShotRun = done[course.plan.name]
            after: SecondDatasetResult = done[go_on.name]
            rows.append(SecondDatasetRow(before.learner, before.seed, before.accuracy, **vars(after)))
    return rows


def _shares_by_learner(study: FewShotStudy, rows: Sequence[FewShotRun]) -> dict[str, list[list[float]]]:
    """Of the learners that have a result with every seed; the others' means would be those of other seeds."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        found.setdefault(row.learner, []).append(shares_of(study.folder, row))
    seeds = len({course.plan.seed for course in study.courses})
    return {name: shares for name, shares in found.items() if len(shares) == seeds}


def _failed(study: FewShotStudy, failures: Sequence[Failure]) -> list[Failed]:
    """By learner and seed, once for each: what failed only because another cell of the same learner did is left out."""
    found = []
    for course in study.courses:
        plan, go_on = course.plan, study.go_on(course)
        own = {plan.name, study.ask(course).name, *([] if go_on is None else [go_on.name])}
        found += [
            Failed(plan.learner, plan.seed, failure.error, failure.cell)
            for failure in failures
            if failure.cell in own and failure.because not in own
        ]
    return found


def _settings(study: FewShotStudy) -> dict[str, Any]:
    """Those of all learners by name, then each one's own under its name."""
    request = study.request
    further = (request.section(PretrainingConfig), request.section(QuestionsConfig))
    sections = (request.section(EpisodesConfig), request.updates(), *further)
    found = {name: value for section in sections for name, value in vars(section).items()}
    for course in study.courses:
        plan = course.plan
        trained = dataclasses.asdict(plan.meta_training) if plan.learner_class.meta_trains else {}
        own = {**trained, **dataclasses.asdict(plan.own)}
        found |= {plan.learner: own} if own else {}
    return found
