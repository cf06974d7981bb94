"""Model Stock (Jang et al. 2024, arXiv:2403.19522, section 4): how far the mean is to be trusted, by the angle."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor

SINGULAR = 1e-6


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

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import added_

        def merge(chunk: Chunk) -> Tensor:
            vectors = chunk.differences()
            return added_(vectors, chunk.start_values, _trust(vectors) / len(vectors))

        return merge


def _trust(vectors: list[Tensor]) -> float:
    """t, from N >= 2 differences."""
    import torch

    units = [vector.double() / torch.linalg.vector_norm(vector.double()).clamp(min=1e-300) for vector in vectors]
    cosines = [float(one.dot(other).clamp(-1, 1)) for one, other in itertools.combinations(units, 2)]
    cosine, others = sum(cosines) / len(cosines), len(vectors) - 1
    denominator = 1 + others * cosine
    return len(vectors) * cosine / denominator if abs(denominator) >= SINGULAR else 0.0
