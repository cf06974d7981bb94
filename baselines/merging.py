"""The learner of every merging method: trains two networks alone, then merges them.

The merged network's batch-norm statistics are settled as every sum's are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metasum.baselines.independent import independent_step
from metasum.errors import UsageError
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Backward, PairLearner
from metasum.merging.memory import Endpoint, merge
from metasum.merging.method import Method
from metasum.types import Batch, Sides
from metasum.weights.parameters import parameters_of, with_parameters
from metasum.weights.statistics import recalibrate


class MergingLearner(PairLearner):
    """Trains two networks independently; the sum is what a merging method makes of them.

    Args:
        networks: the pair; the target's weights as they come are θ_0.
        method: what makes one of two.
    """

    def __init__(self, networks: MetaSum, method: Method) -> None:
        super().__init__(networks)
        self._initial = {n: tensor.detach().clone() for n, tensor in parameters_of(networks.target).items()}
        self._method = method

    @property
    def operators(self) -> tuple[str, ...]:
        return (self._method.name,)

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
        merged = merge(self._method, endpoints, self._initial)
        target, support = (recalibrate(with_parameters(own.target, merged), batches) for batches in images)
        return Sides(target, support)
