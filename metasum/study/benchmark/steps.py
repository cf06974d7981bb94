"""A learner's training step on fixed random images, and the plain passes that it cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from metasum.config import OptimisationConfig
from metasum.learners.protocol import Trainable
from metasum.results.benchmark import Setting
from metasum.training.optimisation import Updater
from metasum.types import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CLASSES = 10


class Step:
    """What is timed of a learner: everything of a training step but the optimiser's update.

    Args:
        learner: on `fabric`'s device, in the setting's layout.
        batches: what its `training_step` is given.
        setting: the precision.
        fabric: device and precision.
    """

    def __init__(self, learner: Trainable, batches: list[Batch], setting: Setting, fabric: Fabric) -> None:
        self.learner, self.batches, self._fabric = learner, batches, fabric
        self.updater = Updater(learner, optimisation(setting, device=fabric.device.type), fabric)

    def __call__(self) -> None:
        for parameter in self.learner.parameters():
            parameter.grad = None
        with self._fabric.autocast():
            self.learner.training_step(*self.batches, backward=self.updater.backward)


class PlainPasses:
    """So many forward and backward passes of a network through cross-entropy, with nothing added.

    Args:
        network: on `fabric`'s device.
        batch: what each pass is given.
        count: of passes.
        fabric: device and precision.
    """

    def __init__(self, network: nn.Module, batch: Batch, count: int, fabric: Fabric) -> None:
        self._network, self._batch, self.count, self._fabric = network.train(), batch, count, fabric

    def __call__(self) -> None:
        for _ in range(self.count):
            self._network.zero_grad(set_to_none=True)
            with self._fabric.autocast():
                loss = cross_entropy(self._network(self._batch.images), self._batch.labels)
            self._fabric.backward(loss)


class Written:
    """A loss as somebody else's code computes it, and its one backward.

    Args:
        loss: of the parameters of `networks`.
        networks: whose gradients are forgotten first.
        fabric: device and precision.
    """

    def __init__(self, loss: Callable[[], Tensor], networks: list[nn.Module], fabric: Fabric) -> None:
        self._loss, self._networks, self._fabric = loss, networks, fabric

    def __call__(self) -> None:
        for network in self._networks:
            network.train().zero_grad(set_to_none=True)
        with self._fabric.autocast():
            loss = self._loss()
        self._fabric.backward(loss)


def optimisation(setting: Setting, *, device: str) -> OptimisationConfig:
    """The device and precision, and the update rule, that steps are timed with."""
    return OptimisationConfig(steps=1, learning_rate=1e-3, device=device, precision=setting.precision)


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations in the matrix products and convolutions of `work`, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def random_batch(size: int, generator: torch.Generator, device: torch.device) -> Batch:
    images = torch.randn(size, 1, 32, 32, generator=generator)
    return Batch(images.to(device), torch.randint(CLASSES, (size,), generator=generator).to(device))
