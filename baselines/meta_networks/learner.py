"""Meta Networks as a few-shot learner: all parts together."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from metasum.baselines.meta_networks.fast_weights import ExampleLevel, TaskLevel
from metasum.baselines.meta_networks.gradients import example_gradients
from metasum.config import Checked, option
from metasum.errors import ArchitectureError
from metasum.learners.few_shot import FewShotLearner, FewShotTask
from metasum.networks.augmented import augmented, augmented_names
from metasum.networks.convnet import convnet, last_layer
from metasum.types import Batch

MARGIN = 1.0  # how far apart the contrastive loss wants keys of two classes
ASKED_SCALE = 0.1  # features are large after meta-training: of many classes one would win by its first weights alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaNetworksConfig(Checked):
    """How the key network's fast weights are written."""

    samples: int = option(5, "T: examples whose gradients write the key network's fast weights.", minimum=1)


class MetaNetworks(FewShotLearner):
    """A base network whose weights are written anew for each task, and for each image.

    A key network u embeds images, with task-level fast weights from an LSTM over the gradients of T examples. The base
    network b gets example-level fast weights from a perceptron over each example's gradient; they are stored under
    the example's key, and an image reads its own mixture of them. All that is learnt are the slow weights of both
    networks and the two meta learners; gradients are constants to the meta learners (first order), so that u's last
    layer, which only its own loss reads, stays as it was drawn.

    With one image a class u's loss is the cross-entropy, with more the contrastive loss of pairs.
    """

    name = "meta-networks"
    summary = "Slow weights, and fast ones written from examples' gradients."
    paper = "Munkhdalai & Yu 2017, arXiv:1703.00837"
    Config = MetaNetworksConfig
    candidates = {"learning_rate": (0.0003, 0.0005, 0.001, 0.002, 0.004, 0.008)}
    other_ways = True
    other_filters = True

    def __init__(self, task: FewShotTask, config: Any, trunk: nn.Sequential | None = None) -> None:
        super().__init__(task, config)
        self._contrastive = task.shots > 1
        self.base = self._drawn(task)
        self.key = self._drawn(task)
        self.example_level, self.task_level = ExampleLevel(), TaskLevel()
        if self._contrastive:
            self.key = self.key[:-2]
        else:
            self.key[-1].requires_grad_(False)  # it takes part in u's loss alone, whose gradients are constants

    @staticmethod
    def _drawn(task: FewShotTask) -> nn.Sequential:
        return convnet(ways=task.ways, in_channels=task.in_channels, filters=task.filters)

    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        """See `FewShotLearner.logits`; in training T examples are drawn from the global random state."""
        task = self.task_level(self._key_gradients(adaptation))
        memory, keys = (self._embed(task, pictures) for pictures in (adaptation.images, images))
        rows = self.example_level(
            example_gradients(
                self.base, augmented_names(self.base), adaptation.images[:, None], adaptation.labels[:, None]
            )
        )
        return augmented(self.base, rows, attention(keys, memory), images)

    def _key_gradients(self, adaptation: Batch) -> dict[str, Tensor]:
        """Of u's loss on T examples, or pairs of examples: `[T, *shape]` by name."""
        count, samples = len(adaptation.labels), self.config.samples
        if self._contrastive:
            drawn = torch.stack([torch.randperm(count)[:2] for _ in range(samples)])
        else:  # no example twice where there are enough
            rounds = -(-samples // count)
            drawn = torch.cat([torch.randperm(count) for _ in range(rounds)])[:samples, None]
        drawn = drawn.to(adaptation.labels.device)
        return example_gradients(
            self.key,
            augmented_names(self._embedding()),
            adaptation.images[drawn],
            adaptation.labels[drawn],
            loss=contrastive_loss if self._contrastive else cross_entropy,
        )

    def _embed(self, task: dict[str, Tensor], images: Tensor) -> Tensor:
        """Keys `[n, D]`: what the layer before u's last activation says."""
        return augmented(self._embedding(), task, images.new_ones(1, 1), images)

    def _embedding(self) -> nn.Sequential:
        """U up to what the key is read from."""
        return self.key if self._contrastive else self.key[:-2]

    def asked(self, ways: int) -> MetaNetworks:
        """A copy for episodes of another number of classes: new, untrained last layers, which stay as they are."""
        twin = copy.deepcopy(self)
        twin.task = dataclasses.replace(self.task, ways=ways)
        for network in (twin.base,) if self._contrastive else (twin.base, twin.key):
            last = network[-1]
            if not isinstance(last, nn.Linear):
                raise ArchitectureError(f"a network whose last layer is linear is needed, not {type(last).__name__}.")
            new = network[-1] = last_layer(last.in_features, ways).to(last.weight.device)
            with torch.no_grad():
                new.weight.mul_(ASKED_SCALE)
        return twin

    def reparameterised(self, filters: int) -> MetaNetworks:
        """A copy whose base network is another, untrained one: only its fast weights know anything."""
        twin = copy.deepcopy(self)
        device = next(self.parameters()).device
        twin.base = self._drawn(dataclasses.replace(self.task, filters=filters)).to(device)
        return twin


def contrastive_loss(keys: Tensor, labels: Tensor) -> Tensor:
    """d² where the two keys are of one class, max(0, 1 - d)² where they are not (Hadsell et al. 2006), a scalar.

    Args:
        keys: `[2, D]`; d is their distance.
        labels: `[2]`.
    """
    squared = (keys[0] - keys[1]).square().sum()
    apart = (MARGIN - (squared + 1e-12).sqrt()).clamp(min=0).square()
    return torch.where(labels[0] == labels[1], squared, apart)


def attention(keys: Tensor, memory: Tensor) -> Tensor:
    """How much each key takes of each memory row: `[Q, M]`, rows summing to 1.

    A softmax over cosine similarities.

    Args:
        keys: `[Q, D]`.
        memory: `[M, D]`, the keys under which the rows were stored.
    """
    return (normalize(keys, dim=1) @ normalize(memory, dim=1).T).softmax(dim=1)
