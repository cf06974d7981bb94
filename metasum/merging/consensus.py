"""Consensus merging (Wang et al. 2024, arXiv:2405.07813, section 4): entries that too few networks want stay."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from metasum.config import option
from metasum.errors import UsageError
from metasum.merging.task_arithmetic import SCALINGS, TaskArithmeticConfig
from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def mask_threshold() -> Any:
    """The setting of that name."""
    return option(0.4, "How far a network has to move an entry to want it, beside how far all the others do.", above=0)


def wanted(vector: Tensor, total: Tensor, threshold: float) -> Tensor:
    """A network's TALL mask, |δ_i| >= t · |Σ δ - δ_i|: booleans `[n]`.

    Args:
        vector: δ_i, `[n]`.
        total: Σ δ.
        threshold: t.
    """
    return vector.abs() >= (total - vector).abs_().mul_(threshold)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsensusConfig(TaskArithmeticConfig):
    """Settings of `consensus`."""

    mask_threshold: float = mask_threshold()
    wanted_by: int = option(2, "How many networks have to want an entry for Consensus to keep it.", minimum=0)


class Consensus(TensorMethod):
    """θ_0 + λ · those entries of Σ δ_i that at least `wanted_by` networks want.

    A network wants an entry (its TALL mask) where |δ_i| >= t · |Σ δ - δ_i|, t the mask's threshold. With `wanted_by` 2
    both the entries that nobody wants and those that serve one network alone stay at θ_0; with 0 this is task
    arithmetic. The authors choose a threshold for each network on its images; here there is one for all.
    """

    name = "consensus"
    summary = "Task arithmetic on the entries that at least two networks want (TALL masks)."
    paper = "Wang et al. 2024, arXiv:2405.07813"
    Config = ConsensusConfig
    candidates = {"mask_threshold": (0.2, 0.4, 0.6), "scaling": SCALINGS}
    needs_base = True
    layered = "scaling"

    def check(self, count: int, *, what: str = "networks") -> None:
        super().check(count, what=what)
        if self.config.wanted_by > count:
            raise UsageError(
                f"--wanted-by {self.config.wanted_by}: no more than {count} {what} can want an entry; lower it."
            )

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import total, total_

        def merge(chunk: Chunk) -> Tensor:
            vectors = chunk.differences()
            wanting = self._wanting(vectors, total(vectors))
            wanted = total_(vectors).masked_fill_(wanting < self.config.wanted_by, 0)
            return wanted.mul_(self.setting(chunk.part.name)).add_(chunk.start_values)

        return merge

    def _wanting(self, vectors: Sequence[Tensor], total: Tensor) -> Tensor:
        """How many networks want each entry, `[n]`."""
        import torch

        count = torch.zeros(len(total), dtype=torch.int32, device=total.device)
        for vector in vectors:
            count += wanted(vector, total, self.config.mask_threshold)
        return count
