"""PCB-Merging (Du et al. 2024, arXiv:2410.02396): entries compete within their network and with the other networks'."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metasum.config import option
from metasum.merging.task_arithmetic import SCALINGS, UnitScalingConfig
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors
from metasum.merging.ties import last_kept

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-12
OUTLIERS = 1e-4  # share of entries at either end of the magnitudes that are brought to the next one's


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCBConfig(UnitScalingConfig):
    """Settings of `pcb`."""

    density: float = option(0.1, "Share of each task vector that is kept.", above=0, maximum=1)


class PCB(TensorMethod):
    """θ_0 + λ Σ s_i δ_i / Σ s_i, s_i in [0, 1] the score of an entry of network i; where all are 0, θ_0.

    As the authors' code has it, on each δ_i as one long vector. Magnitudes are clipped: the largest ten-thousandth to
    the largest below it, the smallest to the smallest above it. The score within a network is exp(N m²), m the clipped
    magnitude from 0 for the smallest to 1 for the largest; the score between networks is tanh(δ_i · Σ δ_j). Their
    product is 0 up to the bound that a `density` of a network's entries reach, and rises evenly to 1 for the largest.
    The bound is 0 at least: an entry that pulls against the sum is never kept.
    """

    name = "pcb"
    summary = "Differences weighted by how they compete within and between networks."
    paper = "Du et al. 2024, arXiv:2410.02396"
    Config = PCBConfig
    candidates = {"density": (0.1, 0.2, 0.5), "scaling": SCALINGS}
    needs_base = True
    layered = "scaling"

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import total, total_

        smallest, largest = (
            last_kept(tensors, Chunk.differences, kept=rank, together=True) for rank in (_all_but_outliers, _outliers)
        )

        def competing(chunk: Chunk) -> tuple[list[Tensor], list[Tensor]]:
            """Clipped differences and their scores, 0 where an entry pulls against the sum."""
            name, vectors = chunk.part.name, chunk.differences()
            added = total(vectors)
            ends = zip(smallest[name], largest[name], strict=True)
            pairs = [_clipped(v, added, *own, len(vectors)) for v, own in zip(vectors, ends, strict=True)]
            return [vector for vector, _ in pairs], [score for _, score in pairs]

        def scores(chunk: Chunk) -> list[Tensor]:
            return competing(chunk)[1]

        low = last_kept(tensors, scores, kept=self._kept, together=True)
        high = last_kept(tensors, scores, kept=lambda entries: 1, together=True)

        def merge(chunk: Chunk) -> Tensor:
            name, (vectors, shares) = chunk.part.name, competing(chunk)
            for vector, share, least, most in zip(vectors, shares, low[name], high[name], strict=True):
                vector.mul_(_risen_(share, least or 0.0, most or 0.0))
            merged = total_(vectors).div_(total_(shares).clamp_(min=SMALLEST))
            return merged.mul_(self.setting(name)).add_(chunk.start_values)

        return merge

    def readings(self, parts: Sequence[Part]) -> int:
        from metasum.merging.selection import DIGITS, widest

        return 1 + 4 * len(DIGITS[widest(parts)])

    def _kept(self, entries: int) -> int:
        return max(1, entries - int(entries * (1 - self.config.density)))


def _all_but_outliers(entries: int) -> int:
    return entries - int(entries * OUTLIERS)


def _outliers(entries: int) -> int:
    """How many are at least as large as the one that the largest are brought to."""
    return entries - max(0, int(entries * (1 - OUTLIERS) - 1))


def _clipped(
    vector: Tensor, total: Tensor, smallest: float | None, largest: float | None, networks: int
) -> tuple[Tensor, Tensor]:
    """The clipped difference and its score, `[n]` each."""
    least, most = smallest or 0.0, largest or 0.0
    magnitude = vector.abs().clamp_(least, most)
    within = (magnitude - least).double().div_((most - least) or 1).square_().mul_(networks).exp_()
    between = (vector * total).double().tanh_().clamp_(min=0)
    return magnitude.mul_(vector.sign()), within.mul_(between).to(vector.dtype)


def _risen_(scores: Tensor, least: float, most: float) -> Tensor:
    """0 up to `least`, from there evenly to 1 at `most`; where these are one, 1 there, unless they are 0."""
    if most > least:
        return scores.sub_(least).div_(most - least).clamp_(min=0)
    return scores.copy_(scores >= least) if least > 0 else scores.zero_()
