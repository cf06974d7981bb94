"""The study as a plan: which cells there are, and what each needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from metasum.baselines.registry import FEW_SHOT
from metasum.few_shot.cells import Ask, GoOn, Learn, Pretrain
from metasum.few_shot.config import EpisodesConfig, QuestionsConfig
from metasum.few_shot.course import Course
from metasum.few_shot.request import FewShotRequest
from metasum.study.engine.cell import Cell
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
