"""DELLA (Deep et al. 2024, arXiv:2406.11617): entries are dropped at random, small ones more often.

Each row of a tensor (what leads to one output; a vector is one row) is ranked by magnitude. The chance to be dropped
falls evenly from p + ε for the smallest entry to p - ε for the largest. What stays is divided by its chance to stay.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from metasum.config import option
from metasum.errors import UsageError
from metasum.merging.task_arithmetic import SCALINGS, TaskArithmeticConfig
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors
from metasum.merging.ties import fused_

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class DELLAConfig(TaskArithmeticConfig):
    """Settings of `della`."""

    drop_rate: float = option(0.5, "Share of each task vector that is dropped.", minimum=0, below=1)
    window: float = option(
        0.15, "ε: how much more often than --drop-rate DELLA drops a row's smallest entry.", minimum=0, below=0.5
    )
    elect: bool = option(True, "Whether what is left is merged with an election of signs, as in TIES, or added.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop_rate and not self.window <= self.drop_rate < 1 - self.window:
            raise UsageError(
                f"--drop-rate {self.drop_rate} with --window {self.window}: DELLA's chances, from one less the other "
                "to their sum, have to lie between 0 and 1; take a smaller window."
            )


class DELLA(TensorMethod):
    """θ_0 + λ · (mean of the δ̃_i that agree in sign), or θ_0 + λ Σ δ̃_i, δ̃_i thinned by magnitude.

    ε and the election are mergekit's. What stays is divided by 1 - its chance to be dropped, as in the paper, where
    mergekit rescales to the tensor's old L1 norm.
    """

    name = "della"
    summary = "TIES' election, or task arithmetic, on differences thinned at random, small entries more often."
    paper = "Deep et al. 2024, arXiv:2406.11617"
    Config = DELLAConfig
    candidates = {"drop_rate": (0.3, 0.5, 0.7), "scaling": SCALINGS}
    fewest = 1
    needs_base = True
    whole_tensors = True
    random = True
    layered = "scaling"

    def formula(self, tensors: Tensors) -> Formula:
        def merge(chunk: Chunk) -> Tensor:
            vectors = chunk.differences()
            for number, vector in enumerate(vectors if self.config.drop_rate else []):
                self._thin_(vector, chunk.part, number)
            return fused_(vectors, chunk.start_values, self.setting(chunk.part.name), elect=self.config.elect)

        return merge

    def _thin_(self, vector: Tensor, part: Part, network: int) -> None:
        config = self.config
        kept, chance = stays(vector, part, network, drop_rate=config.drop_rate, window=config.window, seed=self.seed)
        vector.div_(chance).masked_fill_(kept.logical_not_(), 0)


def stays(
    vector: Tensor, part: Part, network: int, *, drop_rate: float, window: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Which entries of a whole difference stay, `[n]`, bool, and the chance of each to stay, `[n]`, float64.

    Args:
        vector: `[n]`.
        part: whose difference it is.
        network: number of the network among those merged.
        drop_rate: p.
        window: ε.
        seed: of the merge.
    """
    import torch

    from metasum.merging.draws import draws

    drawn = torch.from_numpy(draws(0, len(vector), seed=seed, name=part.name, network=network).astype("f8"))
    chance = 1 - drop_chances(vector.view(_rows(part), -1), drop_rate, window).flatten()
    return drawn.div_(2**32).to(vector.device) < chance, chance


def drop_chances(rows: Tensor, drop_rate: float, window: float) -> Tensor:
    """The chance of each entry to be dropped, of the shape of `rows`, `[m, n]`, float64; where n is 1, `drop_rate`."""
    import torch

    order = rows.abs().argsort(dim=1, stable=True)
    counted = torch.arange(rows.shape[1], device=rows.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, counted)  # 0 for the smallest
    if rows.shape[1] == 1:
        return ranks.double().fill_(drop_rate)
    return drop_rate + window - ranks.double() * (2 * window / (rows.shape[1] - 1))


def _rows(part: Part) -> int:
    return part.shape[0] if len(part.shape) > 1 else 1
