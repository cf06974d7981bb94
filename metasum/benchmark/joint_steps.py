"""Joint MetaSum's step: of any number of networks, compiled, and in the shapes that its loss is usually written in."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

from metasum.benchmark.conditions import Conditions
from metasum.benchmark.learner_steps import LearnerSteps, run_plan
from metasum.benchmark.many_networks import ManyNetworks
from metasum.benchmark.racing import Work
from metasum.benchmark.steps import Passes, Step, TimedLearner
from metasum.benchmark.usual_shapes import USUAL_SHAPES, installed, joint_loss
from metasum.config import flag_of
from metasum.errors import UsageError
from metasum.learners.joint import JointLearner
from metasum.results.benchmark import Setting
from metasum.run.parts import make_networks, new_learner


class JointSteps(LearnerSteps):
    """The steps of `JointLearner`; of more than two networks, those of `ManyNetworks`."""

    heeds = frozenset({"networks", "compile", "usual_shapes"})

    @classmethod
    def check(cls, settings: Iterable[Setting], given: Collection[str]) -> None:
        if given and any(setting.networks > 2 for setting in settings):
            raise UsageError(f"{flag_of(sorted(given)[0])} says nothing to a sum of more than two networks.")

    @classmethod
    def has_usual(cls, setting: Setting, given: Collection[str]) -> bool:
        return super().has_usual(setting, given) and setting.networks == 2 and not setting.compiled

    def own(self, backends: Sequence[str]) -> dict[str, Step]:
        return super().own(("torch",) if self.conditions.setting.compiled else backends)

    def step(self, backend: str | None = None) -> Step:
        setting = self.conditions.setting
        plan = self.in_backend("torch" if setting.compiled else backend)
        networks = make_networks(plan)
        learner: TimedLearner = new_learner(plan, networks)
        every = [networks.target, networks.support]
        if setting.networks > 2:
            learner = many = ManyNetworks(networks, setting.networks)
            every = many.every()
        step = self.step_of(learner, self.conditions.batches)
        for network in every if setting.compiled else ():
            network.compile()
        return step

    def usual(self) -> Mapping[str, Work]:
        steps = {}
        for name, shape in installed(USUAL_SHAPES).items():
            pair = self.conditions.network(), self.conditions.network()
            loss = functools.partial(joint_loss, *pair, shape(*pair), self.conditions.batches)
            steps[name] = Passes(loss, list(pair), self.conditions.fabric)
        return steps


def joint_steps(conditions: Conditions) -> JointSteps:
    """Joint MetaSum's at its defaults: the step that measurements around a step are compared with."""
    return JointSteps(run_plan(JointLearner.name), conditions)
