"""How the training step of any learner is timed."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from metasum.benchmark.conditions import Conditions
from metasum.benchmark.racing import Work
from metasum.benchmark.steps import CLASSES, LEARNING_RATE, Step, TimedLearner, random_pair
from metasum.config import options_of
from metasum.config.words import usual_backend
from metasum.learners.learner import Learner, settings_read_by
from metasum.results.benchmark import Setting
from metasum.run.parts import new_learner
from metasum.run.plan import Plan, resolve
from metasum.run.request import Request
from metasum.types import Batch


class LearnerSteps:
    """The steps of one learner in one setting, and the network whose plain passes are their measure.

    A learner that can be timed in other ways, too, has a subclass; `metasum.benchmark.plan` has the list.

    Args:
        plan: the learner with its settings.
        conditions: that the steps are timed in.
    """

    heeds: ClassVar[frozenset[str]] = frozenset()
    """Of the benchmark's settings "networks", "compile" and "usual_shapes", those that its step heeds."""
    shapes_heed: ClassVar[frozenset[str]] = frozenset()
    """Of the learner's own settings, those that the usual shapes of its loss heed."""

    def __init__(self, plan: Plan, conditions: Conditions) -> None:
        self.plan, self.conditions = plan.having(width=conditions.setting.width), conditions

    @classmethod
    def reads(cls, learner: type[Learner]) -> frozenset[str]:
        """Of the learner's own settings, those that its step heeds (`backend` is the benchmark's to choose)."""
        return frozenset(leaf.name for leaf in options_of(learner.Config)) - {"backend"}

    @classmethod
    def check(cls, settings: Iterable[Setting], given: Collection[str]) -> None:
        """Raises UsageError where one of the learner's own settings, `given`, says nothing in a benchmark's setting."""

    @classmethod
    def has_usual(cls, setting: Setting, given: Collection[str]) -> bool:
        """Whether the loss has usual shapes in a setting, where these settings of the learner were given."""
        return "usual_shapes" in cls.heeds and set(given) <= cls.shapes_heed

    @property
    def images(self) -> int:
        """Images in a step."""
        return self.conditions.setting.batch_size * len(self.conditions.batches)

    def own(self, backends: Sequence[str]) -> dict[str, Step]:
        """The learner's step in each of the backends, by their names; under the usual one's where it reads none."""
        if not reads_backend(self.plan.learner_class):
            return {usual_backend(): self.step()}
        return {backend: self.step(backend) for backend in backends}

    def usual(self) -> Mapping[str, Work]:
        """The same loss as it is usually written, by names of the ways; called where `has_usual` says so."""
        return {}

    def step(self, backend: str | None = None) -> Step:
        """The learner's step, its networks at their start.

        Args:
            backend: that runs the summed network [default: the plan's].
        """
        return self.step_of(new_learner(self.in_backend(backend)), self.conditions.batches[:2])

    def step_of(self, learner: TimedLearner, batches: list[Batch], *, second_order: bool = False) -> Step:
        """A step on these batches of a learner that was built on the CPU; it is placed here.

        Args:
            learner: that takes it.
            batches: on the device.
            second_order: whether it takes gradients of gradients.
        """
        networks = learner.networks
        self.conditions.place(learner, networks.target, networks.support, second_order=second_order)
        return Step(learner, batches, self.conditions.fabric, precision=self.conditions.setting.precision)

    def in_backend(self, backend: str | None) -> Plan:
        """The plan with this backend [default: its own]."""
        return self.plan if backend is None else self.plan.having(backend=backend)

    def plain_network(self, step: Step) -> nn.Module:
        """The network whose passes the step is measured against: the setting's, or a thinner one that it trains."""
        whole, trained = self.conditions.network(self.plan.network.norm), step.learner.networks.target
        if type(trained) is not type(whole):
            return whole
        sizes, own = ([p.shape for p in network.parameters()] for network in (whole, trained))
        return whole if own == sizes else copy.deepcopy(trained)


def reads_backend(learner: type[Learner]) -> bool:
    """Whether the learner has a setting `backend`."""
    return "backend" in settings_read_by(learner)


def run_plan(learner: str, own: Mapping[str, Any] = MappingProxyType({})) -> Plan:
    """The plan of a run of the learner on random images, with these settings of its own.

    Raises:
        UsageError: a setting that the learner does not read, or a value that it does not take.
    """
    rest = {"steps": 2, "learning_rate": LEARNING_RATE, "num_classes": CLASSES}
    return resolve(Request({**rest, **own, "learner": learner}), random_pair())
