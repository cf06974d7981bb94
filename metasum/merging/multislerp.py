"""Multi-SLERP (Goddard 2025, as mergekit's `multislerp`): N tensors on a sphere, in one step from their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors
from metasum.merging.weights import SharesConfig, check_weights, shares

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-8


class MultiSLERP(TensorMethod):
    """The barycentre of N tensors on the sphere, times the weighted mean of their norms.

    Each tensor is one vector, in float64; with a base, its difference from the base. The barycentre's direction is that
    of the directions' weighted mean; the weights are divided by their sum. Where directions cancel, so that their mean
    has none, the tensors' weighted mean is taken, as mergekit does for two.
    """

    name = "multislerp"
    summary = "Interpolates between any number of networks on the sphere, tensor by tensor."
    paper = "Goddard 2025 (mergekit)"
    Config = SharesConfig
    takes_base = True
    whole_tensors = True
    layered = "weights"

    def check(self, count: int, *, what: str = "networks") -> None:
        super().check(count, what=what)
        check_weights(self, count, what=what)

    def formula(self, tensors: Tensors) -> Formula:
        def merge(chunk: Chunk) -> Tensor:
            vectors = [v.double() for v in (chunk.values if chunk.base is None else chunk.differences())]
            weights = self.factors(chunk.part.name, len(vectors))
            merged = _barycentre(vectors, weights)
            return chunk.values[0].copy_(merged if chunk.base is None else merged.add_(chunk.base))

        return merge

    def factors(self, name: str, count: int) -> list[float]:
        """On each of so many networks' tensors of that name."""
        return shares(self.setting(name), count)


def _barycentre(vectors: list[Tensor], weights: list[float]) -> Tensor:
    """Writes into the vectors, `[n]` each, float64.

    Seen from the directions' weighted mean, the weighted mean of the tangents that lead to them is 0: the way from
    there ends where it begins, and the mean itself is the barycentre's direction.
    """
    from metasum.weights.composition import total_

    norms = [float(vector.norm()) for vector in vectors]
    shares = [weight / norm if norm else 0.0 for weight, norm in zip(weights, norms, strict=True)]
    merged = total_([vector * share for vector, share in zip(vectors, shares, strict=True)])
    length = float(merged.norm())
    if length < SMALLEST:
        return total_([vector.mul_(weight) for vector, weight in zip(vectors, weights, strict=True)])
    return merged.mul_(sum(weight * norm for weight, norm in zip(weights, norms, strict=True)) / length)
