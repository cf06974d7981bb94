"""A second-order step of meta-training, and the same loop in the libraries' own words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metasum import third_party
from metasum.benchmark.conditions import Conditions
from metasum.benchmark.learner_steps import LearnerSteps
from metasum.benchmark.racing import Work
from metasum.benchmark.steps import Passes, Step, random_batch
from metasum.benchmark.usual_shapes import PLAIN, installed
from metasum.learners.learner import Learner
from metasum.learners.meta import MetaLearner, split_batch
from metasum.run.meta_training import make_shared_networks
from metasum.run.plan import Plan
from metasum.types import Batch


class MetaSteps(LearnerSteps):
    """Steps of meta-training: two clones of one network, `batch_size` images in each of their passes."""

    heeds = frozenset({"usual_shapes"})
    shapes_heed = frozenset({"inner_steps", "inner_lr"})

    def __init__(self, plan: Plan, conditions: Conditions) -> None:
        super().__init__(plan, conditions)
        size = (plan.own.inner_steps + 1) * conditions.setting.batch_size
        generator = torch.Generator().manual_seed(0)
        self._pair = [random_batch(size, generator, conditions.device) for _ in range(2)]

    @classmethod
    def reads(cls, learner: type[Learner]) -> frozenset[str]:
        """What decides on the step; not what decides on the tasks drawn, how many steps there are, and their size."""
        weights = {"target_weight", "support_weight", "sum_weight", "reading", "symmetric", "meta_operator", "scaling"}
        return cls.shapes_heed | weights | {"inner_optimizer", "first_order"}

    @property
    def images(self) -> int:
        """A batch for each inner step, and one to be judged by, of each clone."""
        return sum(len(batch.labels) for batch in self._pair)

    def step(self, backend: str | None = None) -> Step:
        plan = self.in_backend(backend)
        learner = MetaLearner(make_shared_networks(plan), plan.own, inner_steps=plan.own.inner_steps)
        return self.step_of(learner, self._pair, second_order=True)

    def usual(self) -> Mapping[str, Work]:
        own, model, fabric = self.plan.own, self.conditions.network(), self.conditions.fabric
        parts = [split_batch(batch, own.inner_steps + 1) for batch in self._pair]
        return {
            name: Passes(functools.partial(loss, model, parts, own.inner_lr), [model], fabric)
            for name, loss in installed(USUAL_LOOPS).items()
        }


def learn2learn_loss(model: nn.Module, parts: list[list[Batch]], inner_lr: float) -> Tensor:
    """The episode as learn2learn's users write it: MAML's clones, each adapted on all but the last of its parts."""
    maml = third_party.learn2learn().algorithms.MAML(model, lr=inner_lr)
    clones = [maml.clone() for _ in parts]
    for clone, own in zip(clones, parts, strict=True):
        for part in own[:-1]:
            clone.adapt(_loss(clone, part))
    ends = [dict(clone.module.named_parameters()) for clone in clones]
    return _outer(model, clones, ends, parts)


def higher_loss(model: nn.Module, parts: list[list[Batch]], inner_lr: float) -> Tensor:
    """The episode as higher's users write it."""
    higher, clones = third_party.higher(), []
    for own in parts:
        optimizer = torch.optim.SGD(model.parameters(), inner_lr)
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (clone, stepper):
            for part in own[:-1]:
                stepper.step(_loss(clone, part))
        clones.append(clone)
    names = [name for name, _ in model.named_parameters()]
    ends = [dict(zip(names, clone.fast_params, strict=True)) for clone in clones]
    return _outer(model, clones, ends, parts)


USUAL_LOOPS: dict[str, Callable[[nn.Module, list[list[Batch]], float], Tensor]] = {
    PLAIN: learn2learn_loss,
    "plain higher": higher_loss,
}


def _outer(
    model: nn.Module,
    clones: Sequence[Callable[[Tensor], Tensor]],
    ends: Sequence[dict[str, Tensor]],
    parts: list[list[Batch]],
) -> Tensor:
    """Both clones' losses on their last part, and their average's on the target's."""
    summed = {name: (tensor + ends[1][name]) / 2 for name, tensor in ends[0].items()}
    target = parts[0][-1]
    after = cross_entropy(functional_call(model, summed, (target.images,)), target.labels)
    return _loss(clones[0], target) + _loss(clones[1], parts[1][-1]) + after


def _loss(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return cross_entropy(network(batch.images), batch.labels)
