"""What a few-shot learner is: a class that knows its settings and facts, and learns new classes from a few images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import Checked, NoSettings
from metasum.learners.trainable import Backward
from metasum.types import Batch, FewShotEpisode


@dataclass(frozen=True, kw_only=True)
class FewShotTask:
    """The episodes that a learner is made for, and the size of its networks."""

    ways: int
    """N: classes in an episode."""
    shots: int
    """K: images of each class that an episode is learnt from."""
    in_channels: int = 1
    """Of the images."""
    filters: int = 64
    """Channels of every convolution."""


class FewShotLearner(nn.Module, ABC):
    """Learns to learn: from a few labelled images of N new classes to logits of other images of them.

    Whoever writes one says its facts (the class attributes), its settings (`Config`) and its `logits`. It is built on
    the CPU and moved as any module, its random numbers come from the global state, which is seeded before.

    Args:
        task: the episodes that it is made for.
        config: an instance of the class's `Config`.
        trunk: for learners that start `pretrained`, a `convnet` that was trained on all meta-training classes at once.
            It must not be changed: several learners are given the same one. Others are given None.
    """

    name: ClassVar[str]
    """As `--learner` takes it."""
    summary: ClassVar[str]
    """One sentence for `metasum learners`."""
    paper: ClassVar[str] = ""
    """Where it comes from."""
    Config: ClassVar[type[Checked]] = NoSettings
    """A frozen dataclass of `metasum.config.option` fields: they are flags of `metasum few-shot`."""
    pretrained: ClassVar[bool] = False
    """Whether it starts from a network that was trained on all meta-training classes at once."""
    meta_trains: ClassVar[bool] = True
    """Whether there is anything to learn from episodes."""
    learning_rate: ClassVar[float] = 1e-3
    """Of meta-training, where none is asked for."""
    candidates: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Settings that a search (`--tune`) chooses on validation classes, with the values that it tries, in all
    combinations: its own settings, and `learning_rate`. A fair comparison gives every learner as many combinations, as
    the built-in ones have it: six."""
    other_ways: ClassVar[bool] = False
    """Whether it can be asked about another number of classes than it was trained with (`asked`)."""
    other_filters: ClassVar[bool] = False
    """Whether a base network of another size can take the place of the one it was trained with (`reparameterised`)."""

    remember: Callable[[Sequence[int]], None] | None = None
    """Told after each meta-batch which label each task failed worst on, where somebody wants to know."""

    def __init__(self, task: FewShotTask, config: Any, trunk: nn.Sequential | None = None) -> None:
        super().__init__()
        self.task, self.config = task, config

    @property
    def hard_tasks(self) -> bool:
        """Whether half of a meta-batch is to be made of the classes that the last one failed worst on."""
        return False

    @abstractmethod
    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        """Adapts to an episode and judges images.

        Args:
            adaptation: N·K images with labels 0 to N-1.
            images: `[Q, C, 32, 32]`, of the same classes.

        Returns:
            `[Q, N]`, differentiable with respect to what is meta-learnt.
        """

    def training_step(self, *episodes: FewShotEpisode, backward: Backward = torch.Tensor.backward) -> dict[str, Tensor]:
        """Adds the gradients of one meta-batch: the mean loss on evaluation images ("loss", nats an image).

        Args:
            episodes: of the meta-batch.
            backward: sends the loss's gradient on its way, episode by episode.
        """
        self.train()
        losses, worst = list[Tensor](), list[int]()
        for episode in episodes:
            logits = self.logits(episode.adaptation, episode.evaluation.images)
            loss = cross_entropy(logits, episode.evaluation.labels)
            backward(loss / len(episodes))
            losses.append(loss.detach())
            if self.remember is not None:
                worst.append(_worst_label(logits, episode.evaluation.labels))
        if self.remember is not None:
            self.remember(worst)
        return {"loss": torch.stack(losses).mean()}

    def asked(self, ways: int) -> FewShotLearner:
        """A copy for episodes of another number of classes, without further training; only with `other_ways`."""
        raise NotImplementedError(f"{self.name} can only be asked what it was trained for")

    def reparameterised(self, filters: int) -> FewShotLearner:
        """A copy with an untrained base network of so many filters in its own's place; only with `other_filters`."""
        raise NotImplementedError(f"{self.name} has no base network to replace")

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [[parameter for parameter in self.parameters() if parameter.requires_grad]]

    def before_measuring(self) -> None:
        """Nothing to do, where every process holds whole networks."""


def _worst_label(logits: Tensor, labels: Tensor) -> int:
    """The label of which the largest share was missed; among equals the one with the larger loss."""
    count = torch.bincount(labels)
    missed = torch.zeros(len(count), device=labels.device).index_add(
        0, labels, (logits.argmax(dim=1) != labels).float()
    )
    losses = torch.zeros(len(count), device=labels.device).index_add(
        0, labels, cross_entropy(logits.detach().float(), labels, reduction="none")
    )
    return int((missed / count + 1e-6 * losses / count).argmax())
