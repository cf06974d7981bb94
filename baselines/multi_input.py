"""Multi-input: one network, all weights and the head shared; a target and a support image in, two outputs side by side.

What weight sharing does without any sum (hard parameter sharing, Caruana 1997, taken to its end). MIMO (Havasi et al.
2021, arXiv:2010.06610) has several inputs and outputs, too, but lets them meet inside the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from metasum.baselines.sharing import SharingLearner
from metasum.learners.networks import MetaSum
from metasum.learners.trainable import Backward, Terms
from metasum.types import Batch


class MultiInputLearner(SharingLearner):
    """L = CE(f(θ; x_t), y_t) + CE(f(θ; x_s), y_s), both batches in one pass, with one set of statistics.

    Before is the network on each dataset, with the statistics of both that it learnt in training.

    Args:
        networks: the pair; the support becomes the target's network itself.
        config: empty.
        seed: not looked at.
    """

    name = "multi-input"
    summary = "One network for both datasets, head and all."
    paper = 'Caruana 1997, "Multitask Learning"'

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        networks.support = networks.target

    @classmethod
    def against_own_heads(cls) -> str:
        return "has one head for both datasets"

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward) -> Terms:
        """Terms "target" and "support", in nats per image."""
        self.train()
        both = self.networks.target(torch.cat([target.images, support.images]))
        outputs = both.split([len(target.labels), len(support.labels)])
        losses = [cross_entropy(logits, batch.labels) for logits, batch in zip(outputs, (target, support), strict=True)]
        backward(losses[0] + losses[1])
        return {"target": losses[0].detach(), "support": losses[1].detach()}
