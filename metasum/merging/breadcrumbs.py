"""Model Breadcrumbs (Davari and Belilovsky 2024, arXiv:2312.06795): neither outliers nor small differences.

Of each tensor's difference from the base the largest entries are dropped and then the smallest, until a share is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metasum.config import option
from metasum.merging.task_arithmetic import SCALINGS, TaskArithmeticConfig
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors
from metasum.merging.ties import fused_, trim_bounds

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class BreadcrumbsConfig(TaskArithmeticConfig):
    """Settings of `breadcrumbs`."""

    density: float = option(0.2, "Share of each task vector that is kept.", minimum=0, maximum=1)
    outliers: float = option(
        0.01, "Share of each tensor's difference that Breadcrumbs drops as too large.", minimum=0, below=1
    )
    elect: bool = option(False, "Whether what is left is merged with an election of signs, as in TIES, or added.")


class Breadcrumbs(TensorMethod):
    """θ_0 + λ Σ δ̃_i, δ̃_i the differences without their largest and their smallest entries.

    Of n entries int(density · n) are kept and int(outliers · n) dropped as too large, or fewer where density leaves no
    room; at density 1 nothing is dropped. All of mergekit's definition, but that entries as large as the last one kept
    stay, and those as large as the smallest outlier go.
    """

    name = "breadcrumbs"
    summary = "Task arithmetic on differences without their largest and smallest entries."
    paper = "Davari and Belilovsky 2024, arXiv:2312.06795"
    Config = BreadcrumbsConfig
    candidates = {"density": (0.1, 0.3, 0.9), "scaling": SCALINGS}
    fewest = 1
    needs_base = True
    layered = "scaling"

    def formula(self, tensors: Tensors) -> Formula:
        density, outliers = self.config.density, self.config.outliers

        def dropped_above(entries: int) -> int:
            return min(int(outliers * entries), entries - int(density * entries))

        def kept_or_above(entries: int) -> int:
            return int(density * entries) + dropped_above(entries)

        if density < 1:
            low = trim_bounds(tensors, Chunk.differences, kept=kept_or_above, together=False)
            high = trim_bounds(tensors, Chunk.differences, kept=dropped_above, together=False)

        def merge(chunk: Chunk) -> Tensor:
            vectors = chunk.differences()
            for number, vector in enumerate(vectors if density < 1 else []):
                magnitude = vector.abs()
                least, most = low[chunk.part.name][number], high[chunk.part.name][number]
                vector.masked_fill_((magnitude <= least).logical_or_(magnitude > most), 0)
            return fused_(vectors, chunk.start_values, self.setting(chunk.part.name), elect=self.config.elect)

        return merge

    def readings(self, parts: Sequence[Part]) -> int:
        from metasum.merging.selection import DIGITS, widest

        return 1 + (2 * len(DIGITS[widest(parts)]) if self.config.density < 1 else 0)
