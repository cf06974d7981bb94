"""Prototypical networks as a few-shot learner, learn2learn's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from metasum import third_party
from metasum.learners.few_shot import FewShotLearner, FewShotTask
from metasum.types import Batch


class Prototypical(FewShotLearner):
    """The nearest class mean in a learnt space, by squared Euclidean distance.

    learn2learn's four-block network and `PrototypicalClassifier`.
    """

    name = "prototypical"
    summary = "The nearest class mean in a learnt space (learn2learn)."
    paper = "Snell et al. 2017, arXiv:1703.05175"
    other_ways = True
    candidates = {"learning_rate": (0.0003, 0.0005, 0.001, 0.002, 0.004, 0.008)}

    def __init__(self, task: FewShotTask, config: Any, trunk: nn.Sequential | None = None) -> None:
        super().__init__(task, config)
        library = third_party.learn2learn()
        self.features = library.vision.models.CNN4Backbone(hidden_size=task.filters, channels=task.in_channels)
        self._classifier = library.nn.PrototypicalClassifier

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        classifier = self._classifier(self.features(adaptation.images), adaptation.labels)
        answers: Tensor = classifier(self.features(images))
        return answers

    def asked(self, ways: int) -> Prototypical:
        return self  # nothing in it depends on the number of classes
