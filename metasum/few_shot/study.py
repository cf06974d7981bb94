"""The study as a plan: which cells there are, what each needs, and what has become of them as one result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum import third_party
from metasum.baselines.registry import FEW_SHOT
from metasum.errors import MetaSumError
from metasum.few_shot.cells import Ask, Choice, GoOn, Learn, Pretrain, Try, accuracy_of, shares_of
from metasum.few_shot.config import EpisodesConfig, PretrainingConfig, QuestionsConfig, SearchConfig
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
from metasum.results.surroundings import Failed, Tuned
from metasum.run.description import describe_surroundings
from metasum.study.choosing import Choose
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
    """The study, with all checks that need no training; arguments and errors as `few_shot` has them."""
    names = list(FEW_SHOT) if learners is None else list(learners)
    request.check(names)
    third_party.learn2learn()  # it draws the episodes: where it is missing, that is said before data is loaded
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

    @property
    def learners(self) -> list[str]:
        return list(dict.fromkeys(course.learner for course in self.courses))

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
            if isinstance(cell.work, Pretrain | Try | Learn | GoOn):
                cell.work.check()

    def cells(self) -> list[Cell]:
        """Each seed's trunk where a learner starts from it, trials and a choice, each learner, what comes after it."""
        found: dict[str, Cell] = {}
        for course in self.courses:
            plan = course.plan
            trunks = (plan.pretrained_name,) if plan.learner_class.pretrained else ()
            for name in trunks:
                found.setdefault(name, Cell(name, Pretrain(course)))
            choice, after = self.choice(course), tuple[str, ...]()
            if choice is not None:
                after = (choice.cell,)
                found |= {cell.name: cell for cell in self._search(course, choice) if cell.name not in found}
            found[plan.name] = Cell(plan.name, Learn(course, choice), trunks, after)
            ask = self.ask(course)
            if ask.ways or ask.filters:
                found[ask.name] = Cell(ask.name, ask, (plan.name,), after)
            if (go_on := self.go_on(course)) is not None:
                found[go_on.name] = Cell(go_on.name, go_on, (plan.name,), after)
        return list(found.values())

    def trials(self, learner: str) -> list[Try]:
        """Of a learner's candidates, with the first seed; [] where nothing is to be chosen."""
        first = next(course for course in self.courses if course.learner == learner)
        return [Try(first, candidate) for candidate in self.request.candidates(learner)]

    def choice(self, course: Course) -> Choice | None:
        """Where the settings come from that are open in a learner's runs; None where there are none."""
        trials = self.trials(course.learner)
        return Choice(f"settings of {course.learner}", tuple(trials[0].candidate)) if trials else None

    def _search(self, course: Course, choice: Choice) -> list[Cell]:
        """A learner's trials and the choice; those of its first seed's course serve all its seeds."""
        tried = {trial.name: trial for trial in self.trials(course.learner)}
        trunks = (course.plan.pretrained_name,) if course.plan.learner_class.pretrained else ()
        cells = [Cell(name, trial, trunks) for name, trial in tried.items()]
        choose = Choose({name: trial.candidate for name, trial in tried.items()}, accuracy_of)
        return [*cells, Cell(choice.cell, choose, after=tuple(tried))]

    def ask(self, course: Course) -> Ask:
        """What a learner can be asked of all that is asked."""
        learner, questions = course.plan.learner_class, self.questions
        ways = questions.test_ways if learner.other_ways else ()
        return Ask(course, ways, questions.base_filters if learner.other_filters else (), self.choice(course))

    def go_on(self, course: Course) -> GoOn | None:
        """A learner's work on the second dataset; None where there is none."""
        if self.second is None or not course.plan.learner_class.meta_trains:
            return None
        return GoOn(course, self.second, self.questions.then_steps, self.choice(course))


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
    tuning = _tuning(study, done)
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
        tuning=tuning or None,
        settings=_settings(study, tuning),
        data={"name": dataset.name, "source": dataset.source, "checksum": dataset.checksum},
        **describe_surroundings(),
        few_shot=str(study.folder),
        trunks=tuple(_trunks(study, done)) or None,
        failed=tuple(_failed(study, failures)) or None,
    )


def _tuning(study: FewShotStudy, done: Mapping[str, Any]) -> dict[str, Tuned]:
    """Under each learner's name what was chosen for its runs, where something could be tried."""
    choices = {course.learner: study.choice(course) for course in study.courses}
    found = {name: done.get(choice.cell) for name, choice in choices.items() if choice is not None}
    return {name: tuned for name, tuned in found.items() if isinstance(tuned, Tuned) and tuned.tried}


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
    trials = {trial.name: trial.course for name in study.learners for trial in study.trials(name)}
    for failure in failures:
        if failure.cell in trials and failure.because is None:
            course = trials[failure.cell]
            found.append(Failed(course.learner, course.seed, failure.error, failure.cell))
    return found


def _settings(study: FewShotStudy, tuning: Mapping[str, Tuned]) -> dict[str, Any]:
    """Those of all learners by name, then each one's own under its name, chosen ones as they were chosen."""
    request = study.request
    further = (request.section(section) for section in (PretrainingConfig, QuestionsConfig, SearchConfig))
    sections = (request.section(EpisodesConfig), request.updates(), *further)
    found = {name: value for section in sections for name, value in vars(section).items()}
    for course in study.courses:
        plan = course.plan
        trained = dataclasses.asdict(plan.meta_training) if plan.learner_class.meta_trains else {}
        own = {**trained, **dataclasses.asdict(plan.own)}
        own |= tuning[plan.learner].chosen if plan.learner in tuning else {}
        found |= {plan.learner: own} if own else {}
    return found
