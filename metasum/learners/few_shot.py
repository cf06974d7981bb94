"""What few-shot learners have in common: episodes in, the loss on each one's evaluation images out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.learners.learner import Backward
from metasum.types import Batch


class FewShotLearner(nn.Module, ABC):
    """Learns to learn: from a few labelled images of N new classes to logits of other images of them."""

    remember: Callable[[Sequence[int]], None] | None = None
    """Told after each meta-batch which label each task failed worst on, where somebody wants to know."""

    @abstractmethod
    def logits(self, adaptation: Batch, images: Tensor) -> Tensor:
        """Adapts to an episode and judges images.

        Args:
            adaptation: N·K images with labels 0 to N-1.
            images: `[Q, C, 32, 32]`, of the same classes.

        Returns:
            `[Q, N]`, differentiable with respect to what is meta-learnt.
        """

    def training_step(self, *batches: Batch, backward: Backward = torch.Tensor.backward) -> dict[str, Tensor]:
        """Adds the gradients of one meta-batch: the mean loss on evaluation images ("loss", nats an image).

        Args:
            batches: of each episode the adaptation batch, then the evaluation batch.
            backward: sends the loss's gradient on its way, episode by episode.
        """
        self.train()
        losses, worst = list[Tensor](), list[int]()
        for adaptation, evaluation in zip(batches[::2], batches[1::2], strict=True):
            logits = self.logits(adaptation, evaluation.images)
            loss = cross_entropy(logits, evaluation.labels)
            backward(2 * loss / len(batches))
            losses.append(loss.detach())
            if self.remember is not None:
                worst.append(_worst_label(logits, evaluation.labels))
        if self.remember is not None:
            self.remember(worst)
        return {"loss": torch.stack(losses).mean()}

    def asked(self, ways: int) -> FewShotLearner | None:
        """A learner for episodes of another number of classes, without further training; None where it has none."""
        return None

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
