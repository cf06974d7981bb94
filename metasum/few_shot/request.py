"""What somebody asked of `metasum few-shot`: the settings that were given, and what they mean to each learner."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from metasum.baselines.meta_transfer.pretraining import Pretraining
from metasum.baselines.registry import FEW_SHOT
from metasum.config import Checked, flag_of, options_of
from metasum.errors import UsageError, unknown
from metasum.few_shot.config import (
    SECTIONS,
    EpisodesConfig,
    MetaTrainingConfig,
    PretrainingConfig,
    QuestionsConfig,
    SearchConfig,
    UpdatesConfig,
)
from metasum.few_shot.plan import FewShotPlan
from metasum.learners.few_shot import FewShotLearner
from metasum.study.choosing import combinations

C = TypeVar("C", bound=Checked)


def few_shot_settings() -> Iterator[tuple[str, type[Any]]]:
    """Every dataclass of settings, with the learner that reads it ("" for all): what flags are made of."""
    for section in SECTIONS:
        yield "", section
    for name, learner in FEW_SHOT.items():
        yield name, learner.Config


@dataclasses.dataclass(frozen=True)
class FewShotRequest:
    """Settings that were given, by the names of the command line's flags. The rest is decided when runs are planned.

    Example:
        >>> request = FewShotRequest({"ways": 2, "steps": 100, "test_ways": (3, 5)})

    Raises:
        UsageError: a name that no setting has.
    """

    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {leaf.name for _, section in few_shot_settings() for leaf in options_of(section)}
        wrong = next((name for name in self.given if name not in known), None)
        if wrong is not None:
            raise unknown("setting", wrong, known)

    def section(self, kind: type[C], **filled: Any) -> C:
        """One section: what was given of it, `filled` where that is nothing, and its defaults.

        Raises:
            UsageError: a value that its setting does not take.
        """
        own = {leaf.name: self.given[leaf.name] for leaf in options_of(kind) if leaf.name in self.given}
        return kind(**{**filled, **own})

    def updates(self) -> UpdatesConfig:
        """How weights move: with patience at a constant rate, where no other is asked for."""
        filled = {} if self.given.get("patience") is None else {"schedule": "constant"}
        return self.section(UpdatesConfig, **filled)

    def having(self, **values: Any) -> FewShotRequest:
        """The same with some settings given, or given otherwise."""
        return FewShotRequest({**self.given, **values})

    def candidates(self, name: str) -> list[dict[str, Any]]:
        """The settings that a search tries for a learner; [] where nothing is to be chosen."""
        tuned = self.section(SearchConfig).tune
        return combinations(FEW_SHOT.named(name).candidates, self.given) if tuned else []

    def trying(self, candidate: Mapping[str, Any]) -> FewShotRequest:
        """The same for a trial of a search: fewer steps, and measured on validation classes."""
        episodes, most = self.section(EpisodesConfig), self.section(SearchConfig).tune_steps
        steps = min(most, self.section(MetaTrainingConfig, learning_rate=1.0).steps)
        own = {"steps": steps, "evaluate_on": "validation", "episodes": episodes.validation_episodes}
        if self.updates().patience is None:
            own["evaluate_every"] = 0  # nobody looks at it
        return self.having(**own, **candidate)

    def plan(self, name: str, seed: int) -> FewShotPlan:
        """The plan of one learner's run; raises UsageError where a value is not one that its setting takes."""
        learner = FEW_SHOT.named(name)
        return FewShotPlan(
            learner=name,
            seed=seed,
            own=self.section(learner.Config),
            episodes=self.section(EpisodesConfig),
            updates=self.updates(),
            meta_training=self.section(MetaTrainingConfig, learning_rate=learner.learning_rate),
            pretraining=self.section(PretrainingConfig),
            trunk=self.section(Pretraining.Config),
        )

    def check(self, names: Sequence[str]) -> None:
        """Raises UsageError where these learners, or what was given, make no sense together."""
        if not names or len(set(names)) < len(names):
            raise UsageError("--learner takes different learners, separated by commas.")
        learners = [FEW_SHOT.named(name) for name in names]
        for learner in learners:
            _check_names(learner)
        read = {name for learner in learners for name in settings_read_by(learner)}
        wrong = next((name for name in self.given if name not in read), None)
        if wrong is not None:
            whom = f"learner {names[0]!r}" if len(names) == 1 else f"any of the learners {', '.join(names)}"
            raise UsageError(f"{flag_of(wrong)} says nothing to {whom}.")
        self.updates()  # refuses what does not go together
        asked = self.section(QuestionsConfig)
        if asked.then is None and "then_steps" in self.given:
            raise UsageError("--then-steps says nothing without --then.")
        self._check_search(names)
        if asked.then is not None and asked.then == self.section(EpisodesConfig).dataset:
            raise UsageError(f"--then {asked.then}: that is the dataset itself; take another one.")

    def _check_search(self, names: Sequence[str]) -> None:
        """Raises UsageError where a search has nothing to choose, or is told of without being asked for."""
        tuned = self.section(SearchConfig).tune
        if not tuned and "tune_steps" in self.given:
            raise UsageError("--tune-steps says nothing without --tune.")
        if tuned and not any(map(self.candidates, names)):
            raise UsageError("--tune has nothing to choose: no learner here has candidates for a setting not given.")


def _check_names(learner: type[FewShotLearner]) -> None:
    """Raises UsageError where a setting of its own has the name of one that others read, too, or a candidate none."""
    common = {leaf.name for section in SECTIONS for leaf in options_of(section)}
    taken = next((leaf.flag for leaf in options_of(learner.Config) if leaf.name in common), None)
    if taken is not None:
        raise UsageError(f"learner {learner.name!r}: {taken} is a setting of all learners; rename its own.")
    own = {leaf.name for leaf in options_of(learner.Config)} | ({"learning_rate"} if learner.meta_trains else set())
    foreign = next((name for name in learner.candidates if name not in own), None)
    if foreign is not None:
        raise UsageError(f"learner {learner.name!r}: candidates for {foreign!r}, which is no setting of its own.")


def settings_read_by(learner: type[FewShotLearner]) -> set[str]:
    """Names of the settings that mean something to a learner."""
    questions = {
        "test_ways": learner.other_ways,
        "base_filters": learner.other_filters,
        "tune": True,
        "tune_steps": learner.meta_trains and bool(learner.candidates),
        "then": learner.meta_trains,
        "then_steps": learner.meta_trains,
    }
    sections: list[type[Checked]] = [EpisodesConfig, learner.Config]
    sections += [UpdatesConfig] if learner.meta_trains or learner.pretrained else []
    sections += [MetaTrainingConfig] if learner.meta_trains else []
    sections += [PretrainingConfig] if learner.pretrained else []
    read = {leaf.name for section in sections for leaf in options_of(section)}
    return read | {name for name, means in questions.items() if means}
