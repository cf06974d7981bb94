"""Joint MetaSum's loss for more than two networks, to see how it grows with their number."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.learners.networks import MetaSum
from metasum.learners.trainable import Backward
from metasum.types import Batch
from metasum.weights.parameters import parameters_of


class ManyNetworks(nn.Module):
    """L = Σ_i CE(f(θ_i; x_i), y_i) + CE(f(θ_1 + θ_2 + …; x_1), y_1), a forward and backward for each term.

    Args:
        networks: the first two.
        count: of all; further ones are copies of the target.
    """

    def __init__(self, networks: MetaSum, count: int) -> None:
        super().__init__()
        self.networks = networks
        self.further = nn.ModuleList(copy.deepcopy(networks.target) for _ in range(count - 2))

    def training_step(self, *batches: Batch, backward: Backward = torch.Tensor.backward) -> dict[str, Tensor]:
        """Terms "own" (the last network's) and "sum"; the sum's gradient reaches every network."""
        self.train()
        every = self.every()
        terms = dict[str, Tensor]()
        for network, batch in zip(every, batches, strict=True):
            loss = cross_entropy(network(batch.images), batch.labels)
            backward(loss)
            terms["own"] = loss.detach()
        summed = self.networks.detached_sum([parameters_of(network) for network in every])
        third = cross_entropy(summed(batches[0].images), batches[0].labels)
        backward(third)
        summed.hand_on()
        return {**terms, "sum": third.detach()}

    def every(self) -> list[nn.Module]:
        """All networks, the target first."""
        return [self.networks.target, self.networks.support, *self.further]

    def before_measuring(self) -> None:
        """Nothing to do."""

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [list(network.parameters()) for network in self.every()]
