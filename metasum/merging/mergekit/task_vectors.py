"""The methods that mergekit calls generalised task arithmetic: differences thinned in some way, then added or elected.

Each network has a weight and a density of its own. Arithmetic is in float32 (or float64), whatever is written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from metasum.errors import UsageError
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
        factors = self._factors(tensors, thin) if thin and config.rescale else {}

        def merge(chunk: Chunk) -> Tensor:
            vectors = chunk.differences()
            if thin:
                thin(chunk, vectors)
            own = factors.get(chunk.part.name) or [1.0] * len(vectors)
            for vector, weight, factor in zip(vectors, config.weights, own, strict=True):
                vector.mul_(weight * factor)
            return self._fused_(vectors).mul_(config.scaling).add_(chunk.start_values)

        return merge

    def readings(self, parts: Sequence[Part]) -> int:
        return 2 if self.config.rescale else 1

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
            found[name] = [before / left if min(before, left) >= NO_LENGTH else 1.0 for before, left in pairs]
        return found


class Trimmed(TaskVectors):
    """The largest entries of each tensor's differences stay (TIES)."""

    name = "ties"

    def thinning(self, tensors: Tensors) -> Thin | None:
        import torch

        from metasum.merging.ties import trim_bounds

        densities = self.config.densities
        if min(densities) >= 1:
            return None

        def kept(entries: int) -> list[int]:
            return [_count(density, entries, least=1) for density in densities]

        bounds = trim_bounds(tensors, Chunk.differences, kept=kept, together=False)

        def thin(chunk: Chunk, vectors: Sequence[Tensor]) -> None:
            for vector, bound, density in zip(vectors, bounds[chunk.part.name], densities, strict=True):
                if density < 1:
                    torch.ops.aten.hardshrink.out(vector, bound, out=vector)

        return thin

    def readings(self, parts: Sequence[Part]) -> int:
        return super().readings(parts) + _selecting(self.config, parts)


class WithoutOutliers(TaskVectors):
    """The largest entries are dropped, and the smallest, until the density is left (Model Breadcrumbs)."""

    name = "breadcrumbs"

    def thinning(self, tensors: Tensors) -> Thin | None:
        from metasum.merging.ties import trim_bounds

        pairs = list(zip(self.config.densities, self.config.outliers, strict=True))
        if min(self.config.densities) >= 1:
            return None

        def above(entries: int) -> list[int]:
            return [min(int(out * entries), entries - _count(density, entries)) for density, out in pairs]

        def kept_or_above(entries: int) -> list[int]:
            kept = [_count(density, entries) for density, _ in pairs]
            return [own + dropped for own, dropped in zip(kept, above(entries), strict=True)]

        low = trim_bounds(tensors, Chunk.differences, kept=kept_or_above, together=False)
        high = trim_bounds(tensors, Chunk.differences, kept=above, together=False)

        def thin(chunk: Chunk, vectors: Sequence[Tensor]) -> None:
            bounds = zip(low[chunk.part.name], high[chunk.part.name], self.config.densities, strict=True)
            for vector, (least, most, density) in zip(vectors, bounds, strict=True):
                if density < 1:
                    magnitude = vector.abs()
                    vector.masked_fill_((magnitude <= least).logical_or_(magnitude > most), 0)

        return thin

    def readings(self, parts: Sequence[Part]) -> int:
        return super().readings(parts) + 2 * _selecting(self.config, parts)


class Dropped(TaskVectors):
    """Entries are dropped at random, all with one chance (DARE)."""

    name = "dare"
    random = True

    def thinning(self, tensors: Tensors) -> Thin | None:
        from metasum.merging.draws import kept_entries

        if min(self.config.densities) >= 1:
            return None

        def thin(chunk: Chunk, vectors: Sequence[Tensor]) -> None:
            for number, (vector, density) in enumerate(zip(vectors, self.config.densities, strict=True)):
                if density <= 0:
                    vector.zero_()
                elif density < 1:
                    kept = kept_entries(
                        chunk.start,
                        len(vector),
                        drop_rate=1 - density,
                        seed=self.seed,
                        name=chunk.part.name,
                        network=number,
                    )
                    vector.mul_(kept.to(vector.device))

        return thin


class DroppedByRank(TaskVectors):
    """Entries are dropped at random, the small ones of a row more often (DELLA)."""

    name = "della"
    whole_tensors = True
    random = True

    def check(self, count: int, *, what: str = "networks") -> None:
        super().check(count, what=what)
        for density, window in zip(self.config.densities, self.config.windows, strict=True):
            if 0 < density < 1 and not window < min(density, 1 - density):
                raise UsageError(
                    f"density {density} with epsilon {window}: the chances to stay, from one less the other to their "
                    "sum, have to lie between 0 and 1; take a smaller epsilon."
                )

    def thinning(self, tensors: Tensors) -> Thin | None:
        from metasum.merging.della import stays

        if min(self.config.densities) >= 1:
            return None

        def thin(chunk: Chunk, vectors: Sequence[Tensor]) -> None:
            settings = zip(self.config.densities, self.config.windows, strict=True)
            for number, (vector, (density, window)) in enumerate(zip(vectors, settings, strict=True)):
                if density <= 0:
                    vector.zero_()
                elif density < 1:
                    kept, _ = stays(vector, chunk.part, number, drop_rate=1 - density, window=window, seed=self.seed)
                    vector.mul_(kept)

        return thin


def _count(density: float, entries: int, *, least: int = 0) -> int:
    """How many of so many entries are kept."""
    if density >= 1:
        return entries
    return max(min(least, entries), int(density * entries)) if density > 0 else 0


def _selecting(config: TaskVectorsConfig, parts: Sequence[Part]) -> int:
    """How often everything is read to find the entries of one rank."""
    from metasum.merging.selection import DIGITS, widest

    return len(DIGITS[widest(parts)]) if min(config.densities, default=math.inf) < 1 else 0
