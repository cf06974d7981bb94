"""What every merging method is: a function of finished networks, and the learner that trains them and merges them.

A method sees networks that were trained plainly from one initialisation and gives back one parameter set; the
merged network's batch-norm statistics are then settled as every sum's are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from metasum.baselines.independent import independent_step
from metasum.errors import UsageError
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Backward, PairLearner
from metasum.types import Batch, Parameters, Sides
from metasum.weights.parameters import parameters_of, with_parameters
from metasum.weights.statistics import recalibrate


class Endpoint(NamedTuple):
    """A finished network, and images for the methods that look at data."""

    network: nn.Module
    """In eval mode; a method never changes it."""
    images: Sequence[Tensor]
    """Unlabelled training images of its own dataset, batches `[N, C, H, W]`."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """θ, detached."""
        return {name: tensor.detach() for name, tensor in parameters_of(self.network).items()}


Merger: TypeAlias = Callable[[Sequence[Endpoint], Parameters], dict[str, Tensor]]
"""From two or more finished networks and the initialisation θ_0 that they share to the merged parameters."""


class MergingLearner(PairLearner):
    """Trains two networks independently; the sum is what a merging method makes of them.

    Args:
        networks: the pair; the target's weights as they come are θ_0.
        merger: the method.
        name: what the method is called in results.
    """

    def __init__(self, networks: MetaSum, merger: Merger, *, name: str) -> None:
        super().__init__(networks)
        self._initial = {n: tensor.detach().clone() for n, tensor in parameters_of(networks.target).items()}
        self._merger, self._name = merger, name

    @property
    def operators(self) -> tuple[str, ...]:
        return (self._name,)

    def training_step(
        self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward
    ) -> dict[str, Tensor]:
        """Terms "target" and "support", in nats per image."""
        return independent_step(self.networks, target, support, backward)

    def summed_networks(
        self, images: Sides[Sequence[Tensor]], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> Sides[nn.Module]:
        own = Sides(self.target_network(), self.support_network())
        if statistics != "recalibrate":
            raise UsageError(f"merged networks have recalibrated statistics, not {statistics!r} ones.")
        endpoints = [Endpoint(*pair) for pair in zip(own, images, strict=True)]
        device = next(own.target.parameters()).device
        with torch.autocast(device.type, enabled=False):  # sums of products need all their digits
            merged = self._merger(endpoints, self._initial)
        target, support = (recalibrate(with_parameters(own.target, merged), batches) for batches in images)
        return Sides(target, support)
