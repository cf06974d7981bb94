"""A learner's training step on fixed random images, and the plain passes that it cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from metasum.benchmark.many_networks import ManyNetworks
from metasum.config.sections import OptimisationConfig
from metasum.learners.learner import Learner
from metasum.learners.meta import MetaLearner
from metasum.training.optimisation import Updater
from metasum.types import Batch, Dataset, Sides, Split

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CLASSES = 10
LEARNING_RATE = 1e-3

TimedLearner: TypeAlias = Learner | ManyNetworks | MetaLearner


class Step:
    """What is timed of a learner: everything of a training step but the optimiser's update.

    Args:
        learner: on `fabric`'s device, in the setting's layout.
        batches: what its `training_step` is given.
        fabric: device and precision.
        precision: the same in a word, for the updater.
    """

    def __init__(self, learner: TimedLearner, batches: list[Batch], fabric: Fabric, *, precision: Any = "32") -> None:
        self.learner, self.batches, self._fabric = learner, batches, fabric
        rule = OptimisationConfig(steps=1, learning_rate=LEARNING_RATE, precision=precision)
        self.updater = Updater(learner, rule, fabric)

    def __call__(self) -> None:
        for parameter in self.learner.parameters():
            parameter.grad = None
        with self._fabric.autocast():
            self.learner.training_step(*self.batches, backward=self.updater.backward)


class Passes:
    """So many forward and backward passes through a loss, with nothing added.

    Args:
        loss: of the parameters of `networks`.
        networks: whose gradients are forgotten before each pass.
        fabric: device and precision.
        count: of passes.
    """

    def __init__(
        self, loss: Callable[[], Tensor], networks: list[nn.Module], fabric: Fabric, *, count: int = 1
    ) -> None:
        self._loss, self._networks, self._fabric, self.count = loss, networks, fabric, count

    def __call__(self) -> None:
        for _ in range(self.count):
            for network in self._networks:
                network.train().zero_grad(set_to_none=True)
            with self._fabric.autocast():
                loss = self._loss()
            self._fabric.backward(loss)


def plain_passes(network: nn.Module, batch: Batch, count: int, fabric: Fabric) -> Passes:
    """Passes of a network through the cross-entropy of a batch, both on `fabric`'s device."""
    return Passes(lambda: cross_entropy(network(batch.images), batch.labels), [network], fabric, count=count)


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations in the matrix products and convolutions of `work`, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def random_dataset(count: int) -> Dataset:
    """`count` grey images of noise, `[count, 1, 28, 28]`; those to train on are those to measure on."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % CLASSES)
    return Dataset("random", split, split, CLASSES, "random numbers")


def random_pair() -> Sides[Dataset]:
    """Two of them, of 2,000 images each."""
    return Sides(random_dataset(2000), random_dataset(2000))


def random_batch(size: int, generator: torch.Generator, device: torch.device) -> Batch:
    """Images `[size, 1, 32, 32]` of normal noise with labels drawn evenly, on the device."""
    images = torch.randn(size, 1, 32, 32, generator=generator)
    return Batch(images.to(device), torch.randint(CLASSES, (size,), generator=generator).to(device))
