"""Pretraining: one network learns all meta-training classes at once, for few-shot learners to start from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.baselines.meta_transfer.base_training import BaseTrainingConfig
from metasum.baselines.meta_transfer.learner import ClassifierTuning
from metasum.learners.few_shot import FewShotLearner, FewShotTask
from metasum.learners.trainable import Backward
from metasum.networks.convnet import convnet
from metasum.types import Batch


class Pretraining(nn.Module):
    """A plain classifier of all meta-training classes; it is measured on episodes by a new classifier on its trunk.

    Args:
        task: the episodes that it is measured on, and the network's size.
        config: how the new classifier is trained, where it is measured.
        classes: how many it learns.
    """

    Config = BaseTrainingConfig

    def __init__(self, task: FewShotTask, config: Any, *, classes: int) -> None:
        super().__init__()
        self._task, self._config = task, config
        self.network = convnet(ways=classes, in_channels=task.in_channels, filters=task.filters)

    def training_step(self, batch: Batch, *, backward: Backward = torch.Tensor.backward) -> dict[str, Tensor]:
        """Adds the gradient of the cross-entropy ("loss", nats an image)."""
        loss = cross_entropy(self.network(batch.images), batch.labels)
        backward(loss)
        return {"loss": loss.detach()}

    def few_shot_learner(self) -> FewShotLearner:
        """What it is worth to few-shot learners as it stands; a copy."""
        return ClassifierTuning(self._task, self._config, self.network)

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def before_measuring(self) -> None:
        """Nothing to do, where every process holds whole networks."""
