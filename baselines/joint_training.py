"""Joint training: one network on all datasets together, which no sum of networks can be expected to beat.

Hard parameter sharing (Caruana 1997, "Multitask Learning"): what networks trained apart and added are held against.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from metasum.baselines.independent import IndependentLearner
from metasum.baselines.sharing import SharingLearner, share_parameters
from metasum.learners.trainable import Backward, Terms
from metasum.types import Batch
from metasum.weights.parameters import parameters_of


class JointTraining(nn.Module):
    """L = Σ_i CE(f(θ; x_i), y_i) / N: a batch of each of N datasets in each step, all of them in one pass.

    With heads of their own every dataset has a last layer h_i on the trunk that they share, and running statistics of
    its own, as in `two-head`; each batch is then a pass by itself.

    Args:
        network: at its start; it becomes this module's.
        datasets: their names; the step's batches come in their order.
        head: names of the parameters that each dataset has for itself [default: none]; all of them start alike.
    """

    name = "joint-training"
    summary = "One network trained on all targets of an experiment together."
    no_merge: ClassVar[str | None] = SharingLearner.no_merge
    like: ClassVar[str] = IndependentLearner.name
    """The learner whose networks it stands beside: it takes the settings, and sees as many images as all of them."""

    def __init__(self, network: nn.Module, datasets: Sequence[str], *, head: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._datasets = tuple(datasets)
        others = [copy.deepcopy(network) for _ in datasets[1:]] if head else []
        trunk = set(parameters_of(network)) - head
        for other in others:
            share_parameters(network, other, trunk)
        self.networks = nn.ModuleList([network, *others])

    def training_step(self, *batches: Batch, backward: Backward = torch.Tensor.backward) -> Terms:
        """A term for each dataset, in nats per image."""
        self.train()
        if len(self.networks) == 1:
            outputs = self.networks[0](torch.cat([batch.images for batch in batches])).split([b.size for b in batches])
        else:
            outputs = [network(batch.images) for network, batch in zip(self.networks, batches, strict=True)]
        losses = [cross_entropy(logits, batch.labels) for logits, batch in zip(outputs, batches, strict=True)]
        backward(torch.stack(losses).mean())
        return {name: loss.detach() for name, loss in zip(self._datasets, losses, strict=True)}

    def for_dataset(self, name: str) -> nn.Module:
        """The network that answers on a dataset, in eval mode: the same for all, or with the dataset's own head."""
        return self.networks[self._datasets.index(name) if len(self.networks) > 1 else 0].eval()

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """All of them, in one group."""
        return [list(self.parameters())]

    def before_measuring(self) -> None:
        """Nothing to do: it is trained in one process."""
