"""Which learners can be timed, and those whose steps can be timed in more ways than any learner's."""

from __future__ import annotations

from collections.abc import Iterator

from metasum.baselines.registry import LEARNERS
from metasum.benchmark.joint_steps import JointSteps
from metasum.benchmark.learner_steps import LearnerSteps, reads_backend
from metasum.benchmark.meta_steps import MetaSteps
from metasum.learners.joint import JointLearner
from metasum.learners.learner import Learner
from metasum.learners.meta import MetaLearntLearner

STEPS: dict[type[Learner], type[LearnerSteps]] = {JointLearner: JointSteps, MetaLearntLearner: MetaSteps}
"""How a learner is timed, where there is more to it than its training step.

Of a class that derives from one of these only the training step is timed.
"""

HEEDED_BY_SOME = frozenset({"backends", "usual_shapes", "networks", "compile"})
"""The benchmark's settings that not every learner's step heeds."""


def steps_of(learner: type[Learner]) -> type[LearnerSteps]:
    """How the learner's step is timed."""
    return STEPS.get(learner, LearnerSteps)


def heeded(learner: type[Learner]) -> frozenset[str]:
    """Those of HEEDED_BY_SOME that this learner's step heeds."""
    return steps_of(learner).heeds | ({"backends"} if reads_backend(learner) else set())


def timeable() -> Iterator[type[Learner]]:
    """Every learner with a training step of its own; the others train as the one does whose networks they merge."""
    return (learner for learner in LEARNERS.values() if learner.endpoints is None)
