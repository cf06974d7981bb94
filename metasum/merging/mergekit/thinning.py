"""How mergekit's methods thin differences: by size, without outliers, at random, or at random by rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metasum.errors import UsageError
from metasum.merging.mergekit.task_vectors import TaskVectors, TaskVectorsConfig, Thin
from metasum.merging.tensors import Chunk, Part, Tensors

if TYPE_CHECKING:
    from torch import Tensor


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
