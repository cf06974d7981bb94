"""Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089): θ_0 + λ Σ (θ_i - θ_0)."""

from __future__ import annotations

import dataclasses

from metasum.config import Checked, option
from metasum.merging.tensors import Formula, TensorMethod, Tensors

SCALINGS = (0.3, 0.5, 0.7, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskArithmeticConfig(Checked):
    """Settings of `task-arithmetic`."""

    scaling: float = option(0.4, "λ: factor on what a method makes of the task vectors: their sum, for one.", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitScalingConfig(TaskArithmeticConfig):
    """Settings of methods whose authors start from λ = 1."""

    scaling: float = option(1.0, "λ: factor on what a method makes of the task vectors: their sum, for one.", above=0)


class TaskArithmetic(TensorMethod):
    """θ_0 + λ Σ δ_i."""

    name = "task-arithmetic"
    summary = "The initialisation plus λ times the sum of differences from it."
    paper = "Ilharco et al. 2023, arXiv:2212.04089"
    Config = TaskArithmeticConfig
    candidates = {"scaling": SCALINGS}
    fewest = 1
    needs_base = True
    layered = "scaling"

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import added_

        return lambda chunk: added_(chunk.differences(), chunk.start_values, self.setting(chunk.part.name))
