"""Isotropic merging (Marczak et al. 2025, arXiv:2502.04959): all singular values of a merged matrix made equal."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from metasum.config import option
from metasum.merging.matrices import MatrixMethod, isotropic, orthogonal, side_by_side, triples
from metasum.merging.task_arithmetic import SCALINGS, UnitScalingConfig

if TYPE_CHECKING:
    from torch import Tensor


class IsoC(MatrixMethod):
    """θ_0 + λ s U Vᵀ, U and V the singular vectors of Σ δ_i, and s the mean of its singular values.

    For each matrix; vectors (biases, normalisations) are averaged. Directions in which no network has moved (singular
    values that are 0) stay out, of the mean, too; the authors' code fills them with whatever the SVD returns.
    """

    name = "iso-c"
    summary = "Task arithmetic with all singular values of a matrix's sum of differences made equal."
    paper = "Marczak et al. 2025, arXiv:2502.04959, section 4"
    Config = UnitScalingConfig
    candidates = {"scaling": (*SCALINGS, 1.5)}

    def joined(self, matrices: list[Tensor]) -> Tensor:
        from metasum.weights.composition import total

        values, directions = isotropic(total(matrices))
        return directions.mul_(_mean(values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class IsoCTSConfig(UnitScalingConfig):
    """Settings of `iso-cts`."""

    common: float = option(
        0.8, "Share of a matrix's singular directions that Iso-CTS takes from the sum.", minimum=0, maximum=1
    )


class IsoCTS(MatrixMethod):
    """Iso-C with some of the common directions replaced by each network's own.

    For each matrix: the largest `common` share of the singular triples of Σ δ_i (a few more, so that the others can be
    shared out evenly); then of each δ_i, less its part in the span of those left vectors, the largest triples. All are
    put side by side, both sides made orthogonal as in `tsv-m`, and every singular value is their mean.
    """

    name = "iso-cts"
    summary = "Iso-C with a share of directions of each network's own."
    paper = "Marczak et al. 2025, arXiv:2502.04959, section 5"
    Config = IsoCTSConfig
    candidates = {"common": (0.5, 0.8), "scaling": (*SCALINGS, 1.5)}

    def joined(self, matrices: list[Tensor]) -> Tensor:
        from metasum.weights.composition import total

        most, networks = min(matrices[0].shape), len(matrices)
        each = min(round((most - int(most * self.config.common)) / networks), most // networks)
        common = triples(total(matrices), most - networks * each)
        apart = [matrix - (common.left @ (common.left.mT @ matrix.to(common.left))).to(matrix) for matrix in matrices]
        own = [triples(a, each, size=float(m.norm())) for a, m in zip(apart, matrices, strict=True)]
        left, values, right = side_by_side([common, *own])
        return orthogonal(left).mul_(_mean(values)) @ orthogonal(right)


def _mean(values: Tensor) -> Tensor:
    """Of singular values; 0 where there are none."""
    return values.sum() / max(1, len(values))
