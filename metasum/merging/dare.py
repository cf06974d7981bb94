"""DARE (Yu et al. 2024, arXiv:2311.03099, section 3.2): drop entries of each task vector at random, rescale the rest.

What is left goes through task arithmetic or TIES. The rest is divided by 1 - p, as in the paper; mergekit rescales to
the tensor's old L1 norm instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from metasum.config import option
from metasum.merging.task_arithmetic import SCALINGS
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors
from metasum.merging.ties import TIESConfig, elected, trimmings

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class DAREConfig(TIESConfig):
    """Settings of `dare`."""

    drop_rate: float = option(0.5, "Share of each task vector that is dropped.", minimum=0, below=1)
    dare_then: Literal["task-arithmetic", "ties"] = option(
        "task-arithmetic", "What DARE does with the thinned task vectors."
    )


class DARE(TensorMethod):
    """θ_0 + λ Σ δ̃_i, δ̃_i the thinned task vectors; or TIES on them."""

    name = "dare"
    summary = "Task arithmetic or TIES on randomly thinned differences."
    paper = "Yu et al. 2024, arXiv:2311.03099"
    Config = DAREConfig
    candidates = {"drop_rate": (0.5, 0.9), "scaling": SCALINGS}
    fewest = 1
    needs_base = True
    random = True
    layered = "scaling"

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import added_

        if self.config.dare_then == "ties":
            return elected(self, tensors, self._thinned)
        return lambda chunk: added_(self._thinned(chunk), chunk.start_values, self.setting(chunk.part.name))

    def readings(self, parts: Sequence[Part]) -> int:
        return 1 + (trimmings(self.config, parts) if self.config.dare_then == "ties" else 0)

    def _thinned(self, chunk: Chunk) -> list[Tensor]:
        """The differences, in the values' place: each entry is dropped with one probability, the rest divided."""
        from metasum.merging.draws import kept_entries

        rate, vectors = self.config.drop_rate, chunk.differences()
        for number, vector in enumerate(vectors):
            kept = kept_entries(
                chunk.start, len(vector), drop_rate=rate, seed=self.seed, name=chunk.part.name, network=number
            )
            vector.mul_(kept.to(vector.device)).div_(1 - rate)
        return vectors
