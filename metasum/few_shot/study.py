"""Few-shot learners side by side on the same episodes: the plan of cells, and what becomes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum.baselines.registry import FEW_SHOT
from metasum.config import Checked
from metasum.errors import MetaSumError
from metasum.few_shot.cells import Answers, Ask, GoOn, Learn, Pretrain, shares_of
from metasum.few_shot.config import EpisodesConfig, PretrainingConfig, QuestionsConfig, UpdatesConfig
from metasum.few_shot.course import Course
from metasum.few_shot.measuring import differences
from metasum.few_shot.request import FewShotRequest
from metasum.files import write_json
from metasum.plugins import load_entry_points
from metasum.results.few_shot import (
    FewShotResult,
    FewShotRun,
    FewShotSummary,
    SecondDatasetResult,
    SecondDatasetRow,
)
from metasum.results.surroundings import Failed
from metasum.run.description import describe_surroundings
from metasum.study.engine.cell import Cell, Failure, Outcome
from metasum.study.engine.display import SilentStudy, StudyDisplay
from metasum.study.engine.sequential import Engine, Sequential
from metasum.tasks.few_shot import FewShotDataset, load_few_shot


def few_shot(
    request: FewShotRequest | None = None,
    *,
    learners: Sequence[str] | None = None,
    seeds: int = 1,
    out: Path | str = "runs",
    download: bool = False,
    report: bool = True,
    engine: Engine | None = None,
    display: StudyDisplay | None = None,
) -> FewShotResult:
    """Meta-trains learners on some classes of a dataset, and measures all on the same episodes of others.

    Finished runs are taken as they are, unfinished ones are continued, so that calling it again goes on.

    Args:
        request: the settings that were given.
        learners: names [default: all that are registered].
        seeds: how many, counted up from `seed`.
        out: the runs are in `<out>/few-shot/<dataset>-<ways>way-<shots>shot`, and the results.
        download: fetch a dataset that is not there.
        report: draw report.html, too.
        engine: runs the cells [default: one after the other].
        display: what is told about progress [default: nothing].

    Returns:
        What results.json holds; what failed is in its `failed`.

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; what can be known is known before anything is
            trained. Or nothing has come out of the whole study: the first failure's sentence.
    """
    load_entry_points()
    plan = plan_study(request or FewShotRequest(), learners, seeds=seeds, out=Path(out), download=download)
    outcomes = (engine or Sequential()).run(plan.cells(), display=display or SilentStudy())
    result = plan.result(outcomes)
    write_json(plan.folder / "results.json", result.to_json())
    if report:
        from metasum.few_shot.page import write_few_shot_report

        write_few_shot_report(plan.folder)
    return result


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
    plans = [request.plan(name, seed) for seed in range(asked.seed, asked.seed + seeds) for name in names]
    study = FewShotStudy(request, questions, folder, second, [Course(plan, dataset, folder) for plan in plans])
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
            ask = self._ask(course)
            if ask.ways or ask.filters:
                found[ask.name] = Cell(ask.name, ask, (plan.name,))
            if (go_on := self._go_on(course)) is not None:
                found[go_on.name] = Cell(go_on.name, go_on, (plan.name,))
        return list(found.values())

    def _ask(self, course: Course) -> Ask:
        learner, questions = course.plan.learner_class, self.questions
        ways = questions.test_ways if learner.other_ways else ()
        return Ask(course, ways, questions.base_filters if learner.other_filters else ())

    def _go_on(self, course: Course) -> GoOn | None:
        if self.second is None or not course.plan.learner_class.meta_trains:
            return None
        return GoOn(course, self.second, self.questions.then_steps)

    def result(self, outcomes: Mapping[str, Outcome]) -> FewShotResult:
        """What the cells came to.

        Raises:
            MetaSumError: no learner has a result; the first failure's sentence.
        """
        came_out = {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, Failure)}
        failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
        courses = [course for course in self.courses if course.plan.name in came_out]
        rows: list[FewShotRun] = [came_out[course.plan.name] for course in courses]
        if not rows:
            raise MetaSumError(f"{failures[0].cell} failed: {failures[0].error}")
        answers: list[Answers] = [came_out[name] for course in courses if (name := self._ask(course).name) in came_out]
        dataset, asked = self.courses[0].dataset, self.courses[0].plan.episodes
        names = list(dict.fromkeys(row.learner for row in rows))
        return FewShotResult(
            dataset=asked.dataset,
            ways=asked.ways,
            shots=asked.shots,
            classes={part: len(classes) for part, classes in dataset.classes.items()},
            rows=tuple(rows),
            summary=tuple(FewShotSummary.of([row for row in rows if row.learner == name]) for name in names),
            differences=differences(self._shares_by_learner(rows)),
            asked=tuple(found for answer in answers for found in answer.other_ways),
            reparameterised=tuple(found for answer in answers for found in answer.other_filters),
            then=tuple(self._second_rows(courses, came_out)),
            second_dataset=self.questions.then,
            evaluated_on=asked.evaluate_on,
            settings=self._settings(),
            data={"name": dataset.name, "source": dataset.source, "checksum": dataset.checksum},
            **describe_surroundings(),
            few_shot=str(self.folder),
            failed=tuple(self._failed(failures)),
        )

    def _second_rows(self, courses: Sequence[Course], came_out: Mapping[str, Any]) -> list[SecondDatasetRow]:
        rows = []
        for course in courses:
            go_on = self._go_on(course)
            if go_on is not None and go_on.name in came_out:
                before: FewShotRun = came_out[course.plan.name]
                after: SecondDatasetResult = came_out[go_on.name]
                rows.append(SecondDatasetRow(before.learner, before.seed, before.accuracy, **vars(after)))
        return rows

    def _shares_by_learner(self, rows: Sequence[FewShotRun]) -> dict[str, list[list[float]]]:
        """Of the learners that have a result with every seed; the others' means would be those of other seeds."""
        found: dict[str, list[list[float]]] = {}
        for row in rows:
            found.setdefault(row.learner, []).append(shares_of(self.folder, row))
        seeds = len({course.plan.seed for course in self.courses})
        return {name: shares for name, shares in found.items() if len(shares) == seeds}

    def _failed(self, failures: Sequence[Failure]) -> list[Failed]:
        """By learner and seed; a cell that failed because of another is told of where that one is no learner's."""
        found = []
        for course in self.courses:
            plan, go_on = course.plan, self._go_on(course)
            own = {plan.name, self._ask(course).name, *([] if go_on is None else [go_on.name])}
            for failure in failures:
                if failure.cell in own and failure.because not in own:
                    found.append(Failed(plan.learner, plan.seed, failure.error, failure.cell))
        return found

    def _settings(self) -> dict[str, Any]:
        """Those of all learners by name, then each one's own under its name."""
        sections: tuple[type[Checked], ...] = (EpisodesConfig, UpdatesConfig, PretrainingConfig, QuestionsConfig)
        found = {name: value for section in sections for name, value in vars(self.request.section(section)).items()}
        for course in self.courses:
            plan = course.plan
            trained = dataclasses.asdict(plan.meta_training) if plan.learner_class.meta_trains else {}
            own = {**trained, **dataclasses.asdict(plan.own)}
            found |= {plan.learner: own} if own else {}
        return found
