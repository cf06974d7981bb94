"""MAML as a few-shot learner, learn2learn's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum import third_party
from metasum.config import Checked, option
from metasum.learners.few_shot import FewShotLearner, FewShotTask
from metasum.types import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class MamlConfig(Checked):
    """How a clone is adapted."""

    inner_steps: int = option(5, "Gradient steps of a clone on an episode's images.", unit="steps", minimum=1)
    inner_lr: float = option(0.4, "Their size.", above=0)
    first_order: bool = option(False, "Skip second derivatives.")


class Maml(FewShotLearner):
    """MAML by `learn2learn.algorithms.MAML` on learn2learn's four-block network.

    Batch norm takes the batch in hand, in test episodes too, as is usual with this network.
    """

    name = "maml"
    summary = "An initialisation from which a few steps lead far (learn2learn)."
    paper = "Finn et al. 2017, arXiv:1703.03400"
    Config = MamlConfig
    candidates = {"learning_rate": (0.001, 0.003), "inner_lr": (0.05, 0.15, 0.4)}

    def __init__(self, task: FewShotTask, config: Any, trunk: nn.Sequential | None = None) -> None:
        super().__init__(task, config)
        library = third_party.learn2learn()
        network = library.vision.models.CNN4(
            output_size=task.ways,
            hidden_size=task.filters,
            channels=task.in_channels,
            embedding_size=4 * task.filters,  # 32x32 becomes 2x2
        )
        self.maml = library.algorithms.MAML(network, lr=config.inner_lr, first_order=config.first_order)

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        with torch.enable_grad():
            clone = self.maml.clone()
            for _ in range(self.config.inner_steps):
                clone.adapt(cross_entropy(clone(adaptation.images), adaptation.labels))
        answers: Tensor = clone(images)
        return answers

    def eval(self) -> Maml:
        return self  # see above: the network stays in train mode
