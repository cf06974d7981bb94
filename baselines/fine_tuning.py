"""Fine-tuning as a few-shot learner: of a pretrained network, and of one as it was drawn."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metasum.baselines.meta_transfer.base_training import BASE_CANDIDATES, BaseTrainingConfig, descended, untrained
from metasum.learners.few_shot import FewShotLearner, FewShotTask
from metasum.networks.convnet import convnet
from metasum.types import Batch


class FineTuning(FewShotLearner):
    """The whole pretrained network, last layer new, trained on each episode's images: nothing is meta-learnt."""

    name = "fine-tuning"
    summary = "A pretrained network, all of it trained on each episode's images."
    Config = BaseTrainingConfig
    candidates = BASE_CANDIDATES
    pretrained = True
    meta_trains = False
    other_ways = True

    def __init__(self, task: FewShotTask, config: Any, trunk: nn.Sequential | None = None) -> None:
        super().__init__(task, config)
        network = self._start(trunk)
        self.network = copy.deepcopy(network)
        self.network[-1] = untrained(network[-1], task.ways)

    def _start(self, trunk: nn.Sequential | None) -> nn.Sequential:
        """The network that every episode begins with; its last layer is replaced."""
        if trunk is None:
            raise ValueError(f"{self.name} starts from a pretrained network")
        return trunk

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        names = [name for name, _ in self.network.named_parameters()]

        def answers(own: list[Tensor], images: Tensor) -> Tensor:
            found: Tensor = functional_call(self.network, dict(zip(names, own, strict=True)), (images,))
            return found

        def loss(own: list[Tensor]) -> Tensor:
            return cross_entropy(answers(own, adaptation.images), adaptation.labels)

        trained = descended(self.network.parameters(), loss, self.config.base_steps, self.config.base_lr)
        return answers(trained, images)

    def asked(self, ways: int) -> FineTuning:
        twin = copy.deepcopy(self)
        twin.network[-1] = untrained(self.network[-1], ways)
        return twin


class FromScratch(FineTuning):
    """The same of a network that knows nothing: how much an episode's own images teach."""

    name = "from-scratch"
    summary = "The base network as it was drawn, trained on each episode's images."
    pretrained = False
    candidates = {"base_steps": (50, 100), "base_lr": (0.0005, 0.005, 0.05)}  # it has further to go

    def _start(self, trunk: nn.Sequential | None) -> nn.Sequential:
        return convnet(ways=self.task.ways, in_channels=self.task.in_channels, filters=self.task.filters)
