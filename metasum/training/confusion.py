"""What networks take images for, and the accuracy that this tells."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from metasum.types import Batch
from metasum.weights.guesses import guesses


def confusion(network: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """How often images of each class (row) were taken for each class (column): int64 `[classes, classes]`, on the CPU.

    No gradient is recorded. Raises DivergenceError where a logit is NaN.
    """
    counts: Tensor | None = None
    with torch.inference_mode():
        for images, labels in batches:
            logits = network(images)
            classes = logits.shape[1]
            found = (classes * labels + guesses(logits)).bincount(minlength=classes**2)
            counts = found if counts is None else counts + found
    if counts is None:
        raise ValueError("accuracy needs at least one batch")
    return counts.reshape(classes, classes).cpu()


def accuracy(network: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of images whose largest logit is their label's, in [0, 1], to six digits. No gradient is recorded."""
    return share_right(confusion(network, batches))


def share_right(matrix: Tensor) -> float:
    """The accuracy that a confusion matrix tells, in [0, 1], to six digits."""
    return round(int(matrix.diagonal().sum()) / int(matrix.sum()), 6)
