"""The representation loss for more than one example of a class."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1.0


def contrastive_loss(keys: Tensor, labels: Tensor) -> Tensor:
    """d² where the two keys are of one class, max(0, 1 - d)² where they are not (Hadsell et al. 2006), a scalar.

    Args:
        keys: `[2, D]`; d is their distance.
        labels: `[2]`.
    """
    squared = (keys[0] - keys[1]).square().sum()
    apart = (MARGIN - (squared + 1e-12).sqrt()).clamp(min=0).square()
    return torch.where(labels[0] == labels[1], squared, apart)
