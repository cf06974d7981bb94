"""Meta-Transfer Learning as a few-shot learner; a new classifier on a frozen trunk, which it is measured against."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from metasum.baselines.meta_transfer.base_training import BASE_CANDIDATES, BaseTrainingConfig, base_trained, untrained
from metasum.baselines.meta_transfer.scale_shift import ScaleShift
from metasum.config import option
from metasum.learners.few_shot import FewShotLearner, FewShotTask
from metasum.types import Batch


class FrozenTrunk(FewShotLearner, ABC):
    """A pretrained trunk that stays as it is, and a classifier that is trained on each episode's images.

    Args: see `FewShotLearner`; the pretrained network's two linear layers are discarded.
    """

    pretrained = True

    def __init__(self, task: FewShotTask, config: Any, trunk: nn.Sequential | None = None) -> None:
        super().__init__(task, config)
        if trunk is None:
            raise ValueError(f"{self.name} starts from a pretrained network")
        self.trunk = copy.deepcopy(trunk[:-3]).requires_grad_(False)
        self.classifier = untrained(trunk[-3], task.ways)

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """What the classifier is given, `[n, D]`."""

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        own, settings = self.features(adaptation.images), self.config
        trained = base_trained(self.classifier, own, adaptation.labels, settings.base_steps, settings.base_lr)
        return linear(self.features(images), *trained)


class ClassifierTuning(FrozenTrunk):
    """The trunk's own features and a new classifier for each episode: nothing is meta-learnt."""

    name = "classifier-tuning"
    summary = "A pretrained, frozen trunk with a new classifier for each episode."
    Config = BaseTrainingConfig
    candidates = BASE_CANDIDATES
    meta_trains = False
    other_ways = True

    def features(self, images: Tensor) -> Tensor:
        found: Tensor = self.trunk(images)
        return found

    def asked(self, ways: int) -> ClassifierTuning:
        twin = copy.deepcopy(self)
        twin.classifier = untrained(self.classifier, ways)
        return twin


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaTransferConfig(BaseTrainingConfig):
    """How classifiers are trained, and what scale and shift are learnt from."""

    hard_tasks: bool = option(True, "Draw half of a meta-batch from the classes that the last one failed worst on.")


class MetaTransfer(FrozenTrunk):
    """A frozen trunk Θ whose convolutions are scaled and shifted by Φ, and a classifier's start θ; Φ and θ are learnt.

    Φ ← Φ - γ∇_Φ L(evaluation images; Θ, θ', Φ) and θ ← θ - γ∇_θ of the same, θ' base-trained on the episode from θ.
    θ has as many outputs as there are classes in an episode, so that it can be asked about no other number of them.
    """

    name = "meta-transfer"
    summary = "A pretrained, frozen trunk with meta-learnt scale and shift."
    paper = "Sun et al. 2019, arXiv:1812.02391"
    Config = MetaTransferConfig
    candidates = {"learning_rate": (0.003, 0.01), "base_lr": (0.0002, 0.0005, 0.002)}
    learning_rate = 0.01  # chosen on validation episodes of glyphs

    def __init__(self, task: FewShotTask, config: Any, trunk: nn.Sequential | None = None) -> None:
        super().__init__(task, config, trunk)
        self.scale_shift = ScaleShift(self.trunk)

    @property
    def hard_tasks(self) -> bool:
        return bool(self.config.hard_tasks)

    def features(self, images: Tensor) -> Tensor:
        own = self.scale_shift.effective(dict(self.trunk.named_parameters()))
        found: Tensor = functional_call(self.trunk, own, (images,))
        return found
