"""Model Stock (Jang et al. 2024, arXiv:2403.19522, section 4): how far the mean is to be trusted, by the angle."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar

from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor

SINGULAR = 1e-6
BLOCK = 1 << 16  # entries of a network's differences that are in float64 at once


class ModelStock(TensorMethod):
    """θ_0 + t · mean of the δ_i, with t = N cos θ / (1 + (N - 1) cos θ) for each tensor, θ the angle between the δ_i.

    The cosine is the mean over all pairs, in float64, as mergekit has it; of a difference of nothing but zeros it is 0.
    Where N differences point away from one another so far that the denominator is within 1e-6 of 0, t is 0.
    """

    name = "model-stock"
    summary = "The mean, drawn back to the initialisation as far as the differences disagree."
    paper = "Jang et al. 2024, arXiv:2403.19522"
    needs_base = True
    whole_tensors = True
    smallest: ClassVar[float] = 1e-300
    """Least product of two differences' lengths that a cosine is taken of."""

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import total_

        def merge(chunk: Chunk) -> Tensor:
            rows = [vector.view(self.rows(chunk.part), -1) for vector in chunk.differences()]
            trust = trusts(rows, self.smallest) / len(rows)
            return total_(rows).mul_(trust.to(rows[0].dtype)).view(-1).add_(chunk.start_values)

        return merge

    def rows(self, part: Part) -> int:
        """Into how many vectors a tensor is cut, each with an angle of its own."""
        return 1


def trusts(vectors: list[Tensor], smallest: float) -> Tensor:
    """How far each row's mean is trusted, t, `[m, 1]`, float64, from N >= 2 networks' differences, `[m, n]`."""
    import torch

    products = _products(vectors)
    lengths = [products[index, index].sqrt() for index in range(len(vectors))]
    cosines = [
        (products[one, other] / (lengths[one] * lengths[other]).clamp(min=smallest)).clamp(-1, 1)
        for one, other in itertools.combinations(range(len(vectors)), 2)
    ]
    cosine, others = torch.stack(cosines).mean(0), len(vectors) - 1
    denominator = 1 + others * cosine
    singular = denominator.abs() < SINGULAR
    return (len(vectors) * cosine / denominator.masked_fill(singular, torch.inf))[:, None]


def _products(vectors: list[Tensor]) -> dict[tuple[int, int], Tensor]:
    """Inner products of the rows of every two `[m, n]`, and of each with itself, by their places: `[m]`, float64.

    What is wide is one block at a time, which stays in the processor's cache.
    """
    import torch

    rows, columns = vectors[0].shape
    pairs = list(itertools.combinations_with_replacement(range(len(vectors)), 2))
    found = {pair: torch.zeros(rows, dtype=torch.float64, device=vectors[0].device) for pair in pairs}
    high, wide = max(1, BLOCK // max(1, columns)), min(columns, BLOCK)
    for top, left in itertools.product(range(0, rows, high), range(0, columns, wide or 1)):
        block = [vector[top : top + high, left : left + wide].double() for vector in vectors]
        for one, other in pairs:
            found[one, other][top : top + high] += (block[one] * block[other]).sum(1)
    return found
