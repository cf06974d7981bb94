"""What few-shot learners are measured against: MAML and prototypical networks, both learn2learn's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metasum import third_party
from metasum.learners.few_shot import FewShotLearner
from metasum.types import Batch


class Maml(FewShotLearner):
    """MAML (Finn et al. 2017, arXiv:1703.03400) by `learn2learn.algorithms.MAML` on learn2learn's four-block network.

    Batch norm takes the batch in hand, in test episodes too, as is usual with this network.

    Args:
        ways: N.
        in_channels: of the images.
        filters: of every convolution.
        inner_steps: gradient steps on the adaptation images.
        inner_lr: their size.
        first_order: skip second derivatives.
    """

    def __init__(
        self,
        *,
        ways: int,
        in_channels: int = 1,
        filters: int = 64,
        inner_steps: int = 5,
        inner_lr: float = 0.4,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        library = third_party.learn2learn()
        network = library.vision.models.CNN4(
            output_size=ways,
            hidden_size=filters,
            channels=in_channels,
            embedding_size=4 * filters,  # 32x32 becomes 2x2
        )
        self.maml = library.algorithms.MAML(network, lr=inner_lr, first_order=first_order)
        self._inner_steps = inner_steps

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        with torch.enable_grad():
            clone = self.maml.clone()
            for _ in range(self._inner_steps):
                clone.adapt(cross_entropy(clone(adaptation.images), adaptation.labels))
        answers: Tensor = clone(images)
        return answers

    def eval(self) -> Maml:
        return self  # see above: the network stays in train mode


class Prototypical(FewShotLearner):
    """Prototypical networks (Snell et al. 2017, arXiv:1703.05175): the nearest class mean, in a learnt space.

    learn2learn's four-block network and `PrototypicalClassifier`, squared Euclidean distance.

    Args:
        in_channels: of the images.
        filters: of every convolution.
    """

    def __init__(self, *, in_channels: int = 1, filters: int = 64) -> None:
        super().__init__()
        library = third_party.learn2learn()
        self.features = library.vision.models.CNN4Backbone(hidden_size=filters, channels=in_channels)
        self._classifier = library.nn.PrototypicalClassifier

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        classifier = self._classifier(self.features(adaptation.images), adaptation.labels)
        answers: Tensor = classifier(self.features(images))
        return answers

    def asked(self, ways: int) -> Prototypical:
        return self
