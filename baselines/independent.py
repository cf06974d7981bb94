"""Independent training, the endpoints of the plain sum and the plain average (algorithms without a third term).

Two networks minimise their own loss, with no thought of being added: what model soups (Wortsman et al. 2022,
arXiv:2203.05482) average, here on different datasets.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metasum.learners.protocol import Backward, PairLearner
from metasum.types import Batch


class IndependentLearner(PairLearner):
    """L = CE(f(θ_t; x_t), y_t) + CE(f(θ_s; x_s), y_s): neither network's gradient depends on the other."""

    def training_step(
        self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward
    ) -> dict[str, Tensor]:
        """Terms "target" and "support", in nats per image."""
        self.train()
        terms = dict[str, Tensor]()
        for name, network, batch in (
            ("target", self.networks.target, target),
            ("support", self.networks.support, support),
        ):
            loss = cross_entropy(network(batch.images), batch.labels)
            backward(loss)
            terms[name] = loss.detach()
        return terms
