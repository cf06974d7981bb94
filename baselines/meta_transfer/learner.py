"""Meta-Transfer Learning as a few-shot learner, and the two ways of fine-tuning that it is measured against."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from metasum.baselines.meta_transfer.base_training import BaseTraining
from metasum.baselines.meta_transfer.scale_shift import ScaleShift
from metasum.learners.few_shot import FewShotLearner
from metasum.learners.learner import Backward
from metasum.networks.convnet import convnet
from metasum.types import Batch


class Pretraining(nn.Module):
    """Large-scale classification: all meta-training classes at once, for a trunk that few-shot learners start from.

    Args:
        classes: how many.
        in_channels: of the images.
        filters: of every convolution.
    """

    def __init__(self, *, classes: int, in_channels: int = 1, filters: int = 64) -> None:
        super().__init__()
        self.network = convnet(ways=classes, in_channels=in_channels, filters=filters)

    def training_step(self, batch: Batch, *, backward: Backward = torch.Tensor.backward) -> dict[str, Tensor]:
        """Adds the gradient of the cross-entropy ("loss", nats an image)."""
        loss = cross_entropy(self.network(batch.images), batch.labels)
        backward(loss)
        return {"loss": loss.detach()}

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]


class ClassifierTuning(FewShotLearner):
    """The pretrained trunk as it is, and a new classifier trained on each episode's images: nothing is meta-learnt.

    Args:
        pretrained: a `convnet` that was trained on many classes; its two linear layers are discarded.
        ways: N.
        base: how the classifier is trained.
    """

    def __init__(self, pretrained: nn.Sequential, *, ways: int, base: BaseTraining) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(pretrained[:-3]).requires_grad_(False)
        self.classifier = untrained(pretrained[-3], ways)
        self._base = base

    def features(self, images: Tensor) -> Tensor:
        """`[n, D]`."""
        found: Tensor = self.trunk(images)
        return found

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        trained = self._base(self.classifier, self.features(adaptation.images), adaptation.labels)
        return linear(self.features(images), *trained)

    def asked(self, ways: int) -> ClassifierTuning | None:
        twin = copy.deepcopy(self)
        twin.classifier = untrained(self.classifier, ways)
        return twin


class MetaTransfer(ClassifierTuning):
    """A frozen trunk Θ whose convolutions are scaled and shifted by Φ, and a classifier's start θ; Φ and θ are learnt.

    Φ ← Φ - γ∇_Φ L(evaluation images; Θ, θ', Φ) and θ ← θ - γ∇_θ of the same, θ' base-trained on the episode from θ.

    Args: see `ClassifierTuning`.
    """

    def __init__(self, pretrained: nn.Sequential, *, ways: int, base: BaseTraining) -> None:
        super().__init__(pretrained, ways=ways, base=base)
        self.scale_shift = ScaleShift(self.trunk)

    def features(self, images: Tensor) -> Tensor:
        own = self.scale_shift.effective(dict(self.trunk.named_parameters()))
        found: Tensor = functional_call(self.trunk, own, (images,))
        return found

    def asked(self, ways: int) -> None:
        return None  # θ has as many outputs as it was trained with


class FineTuning(FewShotLearner):
    """The whole pretrained network, last layer new, trained on each episode's images: nothing is meta-learnt.

    Args:
        pretrained: a `convnet` that was trained on many classes.
        ways: N.
        steps: of gradient descent on the adaptation images.
        learning_rate: their size.
    """

    def __init__(self, pretrained: nn.Sequential, *, ways: int, steps: int, learning_rate: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(pretrained)
        self.network[-1] = untrained(pretrained[-1], ways)
        self._steps, self._learning_rate = steps, learning_rate

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        moving = {name: tensor.detach().requires_grad_() for name, tensor in self.network.named_parameters()}
        with torch.enable_grad():
            for _ in range(self._steps):
                loss = cross_entropy(self._answers(moving, adaptation.images), adaptation.labels)
                slopes = torch.autograd.grad(loss, list(moving.values()))
                moving = {
                    name: (tensor - self._learning_rate * slope).detach().requires_grad_()
                    for (name, tensor), slope in zip(moving.items(), slopes, strict=True)
                }
        return self._answers(moving, images)

    def _answers(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        answers: Tensor = functional_call(self.network, parameters, (images,))
        return answers

    def asked(self, ways: int) -> FineTuning:
        twin = copy.deepcopy(self)
        twin.network[-1] = untrained(self.network[-1], ways)
        return twin


def untrained(like: nn.Module, outputs: int) -> nn.Linear:
    """A linear layer with the inputs of `like`, all zero: equal answers to everything."""
    assert isinstance(like, nn.Linear)
    layer = nn.Linear(like.in_features, outputs).to(like.weight)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
