"""The pieces of work that the study is made of; each is a value that can be sent to another process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metasum.few_shot.course import Course, taken
from metasum.few_shot.folder import check_run, opened_run
from metasum.few_shot.measuring import mean_of
from metasum.files import read_json, reading, write_json
from metasum.results.few_shot import (
    FewShotRun,
    OtherBaseNetwork,
    OtherWays,
    PretrainingResult,
    SecondDatasetResult,
)
from metasum.results.surroundings import Settings
from metasum.study.choosing import chosen, in_words
from metasum.tasks.episodes import ClassBatches
from metasum.tasks.few_shot import FewShotDataset
from metasum.training.progress import Display
from metasum.weights.parameters import checksum, parameters_of

PRETRAINING_BATCH = 64
EPISODES = "episodes.json"


class Choice(NamedTuple):
    """Where a run's open settings come from."""

    cell: str
    """The name of the cell that chooses them."""
    open_ones: tuple[str, ...]
    """Their names."""


def open_ones(choice: Choice | None) -> tuple[str, ...]:
    """Names of the settings that are not known before other cells have run."""
    return () if choice is None else choice.open_ones


def settled(course: Course, choice: Choice | None, needed: Mapping[str, Any]) -> Course:
    """The course with the settings that were chosen for it."""
    return course.having(**chosen(needed, None if choice is None else choice.cell))


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Trains the network that some learners start from: on all meta-training classes at once."""

    course: Course

    @property
    def _path(self) -> Path:
        return self.course.study / self.course.plan.pretrained_name

    def check(self) -> None:
        """Raises UsageError where its folder holds a run of other settings."""
        check_run(self._path, self.course.plan.pretraining_settings(), self.course.dataset)

    def __call__(self, needed: Mapping[str, Any], display: Display) -> PretrainingResult:
        course, plan = self.course, self.course.plan
        with opened_run(self._path, plan.pretraining_settings(), course.dataset, display) as run:
            if run.finished:
                return run.result(PretrainingResult)
            model, classes = course.new_pretraining(), len(course.dataset.classes["train"])
            batches = ClassBatches(
                course.dataset,
                "train",
                batch_size=PRETRAINING_BATCH,
                generator=torch.Generator().manual_seed(plan.seed),
                in_channels=plan.episodes.in_channels,
                device=course.fabric.device,
            )
            loop = plan.pretraining_loop()
            harness = course.harness(model, batches, loop, run, display, view=lambda it: it.few_shot_learner())
            harness.resume()
            harness.train(title=f"pretraining on {classes} classes of {course.dataset.name}")
            run.save_weights("learner", model.network.state_dict())
            result = PretrainingResult(**taken(harness))
            write_json(run.path / "result.json", result.to_json())
            return result


@dataclasses.dataclass(frozen=True)
class Learn:
    """Meta-trains one learner, where there is something to learn, and measures it on the final episodes."""

    course: Course
    choice: Choice | None = None

    @property
    def _path(self) -> Path:
        return self.course.study / self.course.plan.name

    def check(self) -> None:
        """Raises UsageError where its folder holds a run of other settings."""
        check_run(self._path, self.course.plan.settings(), self.course.dataset, open_ones=open_ones(self.choice))

    def __call__(self, needed: Mapping[str, Any], display: Display) -> FewShotRun:
        return _learnt(settled(self.course, self.choice, needed), self._path, display)


@dataclasses.dataclass(frozen=True)
class Try:
    """The same with a candidate's settings, as far as trials go, measured on validation classes."""

    course: Course
    candidate: Settings

    @property
    def name(self) -> str:
        return f"validation/{self.course.plan.name}-{in_words(self.candidate)}"

    @property
    def _path(self) -> Path:
        return self.course.study / self.name

    def check(self) -> None:
        """Raises UsageError where its folder holds a run of other settings, or a setting does not take its value."""
        course = self.course.trying(self.candidate)
        check_run(self._path, course.plan.settings(), course.dataset)

    def __call__(self, needed: Mapping[str, Any], display: Display) -> FewShotRun:
        return _learnt(self.course.trying(self.candidate), self._path, display)


def _learnt(course: Course, path: Path, display: Display) -> FewShotRun:
    """What one learner comes to, in the folder at `path`; what is finished there is taken as it is."""
    plan, trunk = course.plan, course.trunk()
    start = {} if trunk is None else {"start_checksum": checksum(parameters_of(trunk))}
    with opened_run(path, plan.settings(), course.dataset, display, **start) as run:
        if run.finished:
            return dataclasses.replace(run.result(FewShotRun), run=run.path.name)  # format 1 had the whole path
        model = course.new_learner(trunk)
        trained: dict[str, Any] = {"steps": 0, "seconds": 0.0, "episodes_per_second": None, "peak_bytes": None}
        if model.meta_trains:
            trained = course.meta_train(model, run, display)
        run.save_weights("learner", model.state_dict())
        shares = course.shares(model)
        write_json(run.path / EPISODES, {"shares": shares})
        result = FewShotRun(
            learner=plan.learner,
            seed=plan.seed,
            **trained,
            parameters=sum(parameter.numel() for group in model.parameter_groups() for parameter in group),
            accuracy=mean_of(shares),
            evaluated_on=plan.episodes.evaluate_on,
            run=run.path.name,
        )
        write_json(run.path / "result.json", result.to_json())
        return result


@dataclasses.dataclass(frozen=True)
class Ask:
    """Asks a trained learner about other numbers of classes, and with other base networks than it was trained with."""

    course: Course
    ways: tuple[int, ...]
    filters: tuple[int, ...]
    choice: Choice | None = None

    @property
    def name(self) -> str:
        return f"{self.course.plan.name}-asked"

    def __call__(self, needed: Mapping[str, Any], display: Display) -> list[OtherWays | OtherBaseNetwork]:
        course = settled(self.course, self.choice, needed)
        whose = (course.plan.learner, course.plan.seed)
        model = course.trained_learner()
        found = list[OtherWays | OtherBaseNetwork]()
        for number in self.ways:
            other = course.seeded(partial(model.asked, number))
            found.append(OtherWays(*whose, number, course.measure(other, ways=number)))
        for number in self.filters:
            other = course.seeded(partial(model.reparameterised, number))
            found.append(OtherBaseNetwork(*whose, number, course.measure(other)))
        return found


@dataclasses.dataclass(frozen=True)
class GoOn:
    """Goes on with meta-training on a second dataset, and measures on both, before and after."""

    course: Course
    second: FewShotDataset
    steps: int
    choice: Choice | None = None

    @property
    def name(self) -> str:
        return f"{self.course.plan.name}-then-{self.second.name}"

    @property
    def _path(self) -> Path:
        return self.course.study / self.name

    def check(self) -> None:
        """Raises UsageError where its folder holds a run of other settings."""
        check_run(self._path, self._settings(self.course), self.course.dataset, open_ones=open_ones(self.choice))

    def _settings(self, course: Course) -> dict[str, Any]:
        own = course.going_on(self.steps).plan.settings()
        return {**own, "then": self.second.name, "then_checksum": self.second.checksum}

    def __call__(self, needed: Mapping[str, Any], display: Display) -> SecondDatasetResult:
        course = settled(self.course, self.choice, needed).going_on(self.steps)
        there, model = course.on(self.second), course.trained_learner()
        start = checksum(parameters_of(model))
        with opened_run(self._path, self._settings(course), course.dataset, display, start_checksum=start) as run:
            if run.finished:
                return dataclasses.replace(run.result(SecondDatasetResult), run=run.path.name)
            new_before = there.measure(model)
            there.meta_train(model, run, display)
            result = SecondDatasetResult(course.measure(model), new_before, there.measure(model), run.path.name)
            run.save_weights("learner", model.state_dict())
            write_json(run.path / "result.json", result.to_json())
            return result


def shares_of(study: Path, run: FewShotRun) -> list[float]:
    """What a finished run got right in each final episode; raises CheckpointError where the file is not there."""
    path = study / run.run / EPISODES
    with reading(path):
        return [float(share) for share in read_json(path)["shares"]]


def accuracy_of(run: FewShotRun) -> float:
    """What is chosen by."""
    return run.accuracy.mean
