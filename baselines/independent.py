"""Independent training, the endpoints of the plain sum, the plain average and every merging method.

Two networks minimise their own loss, with no thought of being added: what model soups (Wortsman et al. 2022,
arXiv:2203.05482) average, here on different datasets.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Backward, PairLearner
from metasum.types import Batch


def independent_step(networks: MetaSum, target: Batch, support: Batch, backward: Backward) -> dict[str, Tensor]:
    """CE(f(θ_t; x_t), y_t) and CE(f(θ_s; x_s), y_s), each with its backward: terms "target" and "support"."""
    networks.train()
    terms = dict[str, Tensor]()
    for name, network, batch in (("target", networks.target, target), ("support", networks.support, support)):
        loss = cross_entropy(network(batch.images), batch.labels)
        backward(loss)
        terms[name] = loss.detach()
    return terms


class IndependentLearner(PairLearner):
    """L = CE(f(θ_t; x_t), y_t) + CE(f(θ_s; x_s), y_s): neither network's gradient depends on the other."""

    def training_step(
        self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward
    ) -> dict[str, Tensor]:
        """Terms "target" and "support", in nats per image."""
        return independent_step(self.networks, target, support, backward)
