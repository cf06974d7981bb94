"""The study as a plan: which cells there are, what each needs, and what has become of them as one result."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from metasum import third_party
from metasum.baselines.registry import FEW_SHOT
from metasum.few_shot.cells import Ask, Choice, GoOn, Learn, Pretrain, Try, accuracy_of
from metasum.few_shot.config import EpisodesConfig, QuestionsConfig
from metasum.few_shot.course import Course
from metasum.few_shot.request import FewShotRequest
from metasum.study.choosing import Choose
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
