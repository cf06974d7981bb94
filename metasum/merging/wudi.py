"""WUDI (Cheng et al. 2025, arXiv:2503.08099): the merged difference that disturbs each network least on its own inputs.

A layer's inputs lie, about, in the span of the rows of its difference, so that these stand for images.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from metasum.config import option
from metasum.merging.matrices import MatrixMethod
from metasum.merging.task_arithmetic import UnitScalingConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class WUDIConfig(UnitScalingConfig):
    """Settings of `wudi`."""

    wudi_steps: int = option(300, "Steps of Adam that WUDI takes for each matrix.", unit="steps", minimum=0)
    wudi_lr: float = option(1e-5, "Learning rate of WUDI's Adam.", above=0)


class WUDI(MatrixMethod):
    """θ_0 + λ δ, δ from Σ δ_i by Adam on Σ_i ‖(δ - δ_i) δ_iᵀ‖² / ‖δ_i‖².

    For each matrix; vectors (biases, normalisations) are averaged, and networks that have not moved left out. The
    authors stop early, at their learning rate far from the least value: an entry moves by about rate times steps.
    """

    name = "wudi"
    summary = "The difference that disturbs each network least, by gradient descent without images."
    paper = "Cheng et al. 2025, arXiv:2503.08099"
    Config = WUDIConfig
    candidates = {"wudi_lr": (1e-5, 1e-4, 1e-3)}

    def joined(self, matrices: list[Tensor]) -> Tensor:
        import torch

        from metasum.weights.composition import total, total_

        delta = total(matrices)
        moved = [matrix for matrix in matrices if matrix.any()]
        if len(moved) < 2:
            return delta  # nobody is disturbed; Adam would follow the rounding
        scaled = [matrix / matrix.norm() for matrix in moved]
        rows = torch.cat(scaled)
        gram = rows.mT @ rows if len(rows) > rows.shape[1] // 2 else None  # what takes fewer products

        def seen(matrix: Tensor) -> Tensor:
            """`matrix` · Σ_i δ_iᵀ δ_i / ‖δ_i‖²."""
            product: Tensor = matrix @ gram if gram is not None else (matrix @ rows.mT) @ rows
            return product

        wanted = total_([(own @ unit.mT) @ unit for own, unit in zip(moved, scaled, strict=True)])
        optimizer = torch.optim.Adam([delta], lr=self.config.wudi_lr)
        for _ in range(self.config.wudi_steps):
            delta.grad = 2 * (seen(delta) - wanted)
            optimizer.step()
        return delta.detach()
