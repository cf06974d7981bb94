"""EMR-merging (Huang et al. 2024, arXiv:2405.17461): elect, mask and rescale. It has to know the task of an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from metasum.merging.for_tasks import MaskingMethod
from metasum.merging.tensors import Chunk, Tensors

if TYPE_CHECKING:
    from torch import Tensor


class EMR(MaskingMethod):
    """θ_0 + λ_i · m_i ∘ τ for task i, of one τ: the sign of Σ δ, and the largest magnitude that agrees with it.

    m_i are the entries in which δ_i has that sign, and λ_i = Σ |δ_i| / Σ |m_i ∘ τ|, over all entries. (The authors'
    code adds up means of tensors in place of entries.)
    """

    name = "emr"
    summary = "A mask and a scale for each task on one common difference: the task is known, no merge."
    paper = "Huang et al. 2024, arXiv:2405.17461"

    def own_parts(self, tensors: Tensors) -> Callable[[Chunk], list[Tensor]]:
        moved, left = ([0.0] * tensors.count for _ in range(2))

        def see(chunk: Chunk) -> None:
            own = chunk.differences()
            for number, vector in enumerate(own):
                moved[number] += float(vector.abs().sum())
            for number, masked in enumerate(_masked(own)):
                left[number] += float(masked.abs_().sum())

        tensors.show(see)
        scales = [ours / theirs if theirs else 1.0 for ours, theirs in zip(moved, left, strict=True)]

        def rescaled(chunk: Chunk) -> list[Tensor]:
            masked = _masked(chunk.differences())
            return [vector.mul_(scale) for vector, scale in zip(masked, scales, strict=True)]

        return rescaled


def _masked(vectors: list[Tensor]) -> list[Tensor]:
    """m_i ∘ τ of every task, new tensors; writes into the differences."""
    import torch

    from metasum.merging.ties import agreeing_

    sign = agreeing_(vectors)
    unified = torch.stack(vectors).amax(dim=0).mul_(sign)
    return [unified.masked_fill(magnitudes == 0, 0) for magnitudes in vectors]
