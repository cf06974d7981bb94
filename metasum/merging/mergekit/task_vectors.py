"""What mergekit calls generalised task arithmetic: differences thinned in some way, then added or elected.

Each network has a weight and a density of its own. Arithmetic is in float32 (or float64), whatever is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor

Thin: TypeAlias = Callable[[Chunk, "Sequence[Tensor]"], None]
"""Drops entries of each network's differences, `[n]`, in their place."""
NO_SUM = 1e-8  # a sum of weights that nothing is divided by
NO_LENGTH = 1e-7  # a sum of magnitudes that is not brought back to what it was


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskVectorsConfig:
    """What a YAML file says to one of these methods for one tensor; a tuple has a value for each network."""

    weights: tuple[float, ...]
    densities: tuple[float, ...] = ()
    """Shares that are kept [default: all]."""
    outliers: tuple[float, ...] = ()
    """γ: shares that are dropped as too large."""
    windows: tuple[float, ...] = ()
    """ε: how far the chance to stay goes up and down from the density."""
    scaling: float = 1.0
    """λ."""
    elect: bool = False
    """Whether entries that disagree with the sign of the sum are left out."""
    normalize: bool = False
    """Whether the sum is divided by the weights that are in it."""
    rescale: bool = False
    """Whether each thinned difference is brought back to the sum of magnitudes that the whole one had."""


class TaskVectors(TensorMethod):
    """θ_0 + λ Σ w_i δ̃_i, or the mean of these by weight, or of those that agree in sign; nothing is thinned."""

    name = "task_arithmetic"
    summary = "mergekit's task arithmetic."
    Config = TaskVectorsConfig
    fewest = 1
    needs_base = True
    compared = False

    def thinning(self, tensors: Tensors) -> Thin | None:
        """How entries are dropped; None where all stay. It looks at the tensors where it has to."""
        return None

    def formula(self, tensors: Tensors) -> Formula:
        config: TaskVectorsConfig = self.config
        thin = self.thinning(tensors)
        rescaled = thin is not None and config.rescale
        known = self._factors(tensors, thin) if thin and rescaled and not self.whole_tensors else {}

        def merge(chunk: Chunk) -> Tensor:
            vectors = chunk.differences()
            factors = known.get(chunk.part.name) or [1.0] * len(vectors)
            before = _lengths(vectors) if rescaled and not known else []
            if thin:
                thin(chunk, vectors)
            if before:
                factors = list(map(_factor, before, _lengths(vectors)))
            for vector, weight, factor in zip(vectors, config.weights, factors, strict=True):
                vector.mul_(weight * factor)
            return self._fused_(vectors).mul_(config.scaling).add_(chunk.start_values)

        return merge

    def readings(self, parts: Sequence[Part]) -> int:
        return 2 if self.config.rescale and not self.whole_tensors else 1

    def _fused_(self, vectors: list[Tensor]) -> Tensor:
        """What is made of the weighted vectors, `[n]`."""
        from metasum.merging.ties import agreeing_, wanting
        from metasum.weights.composition import total_

        weights, normalize = self.config.weights, self.config.normalize
        if not self.config.elect:
            every = sum(weights)
            return total_(vectors).div_(every if normalize and abs(every) >= NO_SUM else 1)
        sign = agreeing_(vectors, even=1)
        count = wanting(vectors, weights) if normalize else None
        merged = total_(vectors).mul_(sign)
        return merged if count is None else merged.div_(count.masked_fill_(count == 0, 1))

    def _factors(self, tensors: Tensors, thin: Thin) -> dict[str, list[float]]:
        """For each part, the factor on each network's thinned difference."""
        from metasum.merging.sums import summed

        def magnitudes(chunk: Chunk) -> list[Tensor]:
            vectors = chunk.differences()
            whole = [vector.double().abs_() for vector in vectors]
            thin(chunk, vectors)
            return [*whole, *(vector.double().abs_() for vector in vectors)]

        found = {}
        for name, sums in summed(tensors, magnitudes).items():
            pairs = zip(sums[: tensors.count], sums[tensors.count :], strict=True)
            found[name] = [_factor(*pair) for pair in pairs]
        return found


def _lengths(vectors: Sequence[Tensor]) -> list[float]:
    """The sum of each whole vector's magnitudes."""
    from metasum.merging.sums import whole_sum

    return [whole_sum(vector.double().abs_()) for vector in vectors]


def _factor(before: float, left: float) -> float:
    """On what is left, for the sum of magnitudes that there was before."""
    return before / left if min(before, left) >= NO_LENGTH else 1.0
