"""Every way of training by name: one dictionary to read.

A third package adds its own through the entry-point group `metasum.baselines` (a function without arguments that
calls `register`), a user through `register` in Python or in a `--plugin` file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metasum.config import TrainConfig
from metasum.errors import UsageError, unknown
from metasum.files import check_folder_name
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Learner

Factory = Callable[[MetaSum, TrainConfig], Learner]
"""From the two initialised networks and the run's settings to a learner."""


@dataclass(frozen=True)
class LearnerEntry:
    """A registered way of training. `sections`: the settings sections that it alone reads."""

    factory: Factory
    summary: str
    source: str
    sections: tuple[str, ...] = ()


def _joint(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.learners.joint import JointLearner

    return JointLearner(networks, config.objective)


def _independent(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.baselines.independent import IndependentLearner

    return IndependentLearner(networks)


LEARNERS: dict[str, LearnerEntry] = {
    "metasum": LearnerEntry(
        _joint, "Trains both networks together with the loss of their sum.", "metasum", ("objective",)
    ),
    "independent": LearnerEntry(_independent, "Trains each network alone: plain sum and plain average.", "metasum"),
}


def register(name: str, factory: Factory, *, summary: str = "", source: str = "Python") -> None:
    """Adds a way of training under `name`.

    Args:
        name: as `--learner` will take it.
        factory: makes a `Learner` from the two networks and the settings.
        summary: one line for `metasum learners`.
        source: where it comes from, for the same list.

    Raises:
        UsageError: the name is taken, or cannot be part of a folder's.
    """
    check_folder_name("a learner called", name)
    if name in LEARNERS:
        raise UsageError(f"there is a learner {name!r} already (from {LEARNERS[name].source}).")
    LEARNERS[name] = LearnerEntry(factory, summary, source)


def learner_named(name: str) -> LearnerEntry:
    """The entry of `name`; raises UsageError, with the nearest name, where there is none."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS, more="`metasum learners` lists them.")
    return LEARNERS[name]
