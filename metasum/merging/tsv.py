"""TSV-M (Gargiulo et al. 2025, arXiv:2412.00081, section 4.2): task singular vectors, kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metasum.merging.matrices import MatrixMethod, orthogonal, side_by_side, triples
from metasum.merging.task_arithmetic import SCALINGS, UnitScalingConfig

if TYPE_CHECKING:
    from torch import Tensor


class TSVM(MatrixMethod):
    """θ_0 + λ U S Vᵀ, of the largest singular triples of each δ_i, side by side, with U and V made orthogonal.

    For each matrix of min(m, n) singular values, 1/N of them are kept of each network, at least one. U and V become the
    nearest matrices with orthonormal rows or columns, so that networks no longer disturb one another. Vectors (biases,
    normalisations) are averaged. Of one network, or of equal ones, the kept part of that one's difference comes out.
    """

    name = "tsv-m"
    summary = "The strongest singular directions of each network's matrices, made orthogonal to one another."
    paper = "Gargiulo et al. 2025, arXiv:2412.00081"
    Config = UnitScalingConfig
    candidates = {"scaling": (*SCALINGS, 1.5)}

    def joined(self, matrices: list[Tensor]) -> Tensor:
        kept = max(1, min(matrices[0].shape) // len(matrices))
        left, values, right = side_by_side([triples(matrix, kept) for matrix in matrices])
        merged: Tensor = (orthogonal(left) * values) @ orthogonal(right)
        return merged
