"""SCE (Wan et al. 2024, arXiv:2408.07990, section 3.3): select, calculate, erase."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from metasum.config import Checked, option
from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors
from metasum.merging.ties import disjoint_mean_

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class SCEConfig(Checked):
    """Settings of `sce`."""

    density: float = option(1.0, "Share of each task vector that is kept.", minimum=0, maximum=1)


class SCE(TensorMethod):
    """θ_0 + Σ w_i δ̃_i / Σ w_i over those δ̃_i, the differences where networks differ most, that agree in sign.

    For each tensor: of the entries whose variance over the networks is not 0, the `density` with the largest are
    selected (and those as large as the last one), if that is less than 1. A network's weight is its share of all
    selected entries' squares. Then signs are elected as in TIES; where the differences add up to 0, nothing is added.
    mergekit weighs networks alike where the mean squares are below 1e-6; here that is so only where they are 0.
    """

    name = "sce"
    summary = "Differences where the networks differ most, weighted by their squares, that agree in sign."
    paper = "Wan et al. 2024, arXiv:2408.07990"
    Config = SCEConfig
    candidates = {"density": (0.1, 0.3, 0.5, 0.7, 1.0)}
    needs_base = True
    whole_tensors = True
    smallest: ClassVar[float] = 0.0
    """Networks are weighed alike where the sum of their mean squares is no larger."""
    even: ClassVar[float] = 0.0
    """The sign that is elected where differences add up to 0."""

    def formula(self, tensors: Tensors) -> Formula:
        def merge(chunk: Chunk) -> Tensor:
            vectors = chunk.differences()
            if self.config.density < 1:
                dropped = _selected(vectors, self.config.density).logical_not_()
                for vector in vectors:
                    vector.masked_fill_(dropped, 0)
            squares = [float(vector.double().square().sum()) for vector in vectors]
            total = sum(squares)
            alike = total <= self.smallest * chunk.part.entries
            weights = [1.0 if alike else own / total for own in squares]
            return disjoint_mean_(vectors, weights, even=self.even).add_(chunk.start_values)

        return merge


def _selected(vectors: list[Tensor], density: float) -> Tensor:
    """The entries of largest variance, `[n]`, bool."""
    import torch

    variance = torch.stack(vectors).double().var(0, correction=0)
    count = int(density * int(variance.count_nonzero()))
    if not count:
        return torch.zeros_like(variance, dtype=torch.bool)
    return variance >= variance.kthvalue(len(variance) - count + 1).values
