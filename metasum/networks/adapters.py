"""Small modules that stand around a network's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metasum.weights.batches import Forward
from metasum.weights.calling import answer


class LowRankAdapter(nn.Module):
    """z - B relu(A z) of features z `[…, width]`; B is 0 at the start, so that z comes out as it is.

    Args:
        width: of the features.
        rank: rows of A.
        generator: of A's start, uniform within ± 1/√width; on the CPU.
    """

    def __init__(self, width: int, rank: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter((2 * torch.rand(rank, width, generator=generator) - 1) / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, rank))

    def forward(self, features: Tensor) -> Tensor:
        return features - (features @ self.down.T).relu() @ self.up.T


class Called(nn.Module):
    """A network as a `Forward` calls it, from a whole batch to logits."""

    def __init__(self, network: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.network, self._forward = network, forward

    def forward(self, batch: Any) -> Tensor:
        return answer(self.network, batch, self._forward)
