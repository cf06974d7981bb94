"""Methods of the project as mergekit has them: with its thresholds, and with the settings that only it has."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from metasum.merging.karcher import Karcher
from metasum.merging.model_stock import ModelStock
from metasum.merging.multislerp import MultiSLERP
from metasum.merging.sce import SCE
from metasum.merging.slerp import SLERP
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Settings of `linear` and `passthrough`."""

    weights: tuple[float, ...]
    normalize: bool = False
    """Whether the sum is divided by the weights' sum."""


class Linear(TensorMethod):
    """Σ w_i θ_i, or that divided by Σ w_i; of one network, w θ."""

    name = "linear"
    summary = "mergekit's linear."
    Config = LinearConfig
    fewest = 1
    compared = False

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import total_

        weights = self.config.weights
        every = sum(weights) if self.config.normalize else 1.0

        def merge(chunk: Chunk) -> Tensor:
            merged = total_([value.mul_(weight) for value, weight in zip(chunk.values, weights, strict=True)])
            return merged if every == 1 else merged.div_(every)

        return merge


class NearlyLinearSLERP(SLERP):
    """SLERP that is linear from a cosine of 0.9995 on, and from one of -0.9995."""

    smallest_angle = math.acos(0.9995)


class FewSteps(Karcher):
    """The Karcher mean in at most ten steps, or until one is shorter than 1e-5."""

    most_steps = 10
    smallest_step = 1e-5

    def __init__(self, max_iter: int, tol: float) -> None:
        super().__init__()
        self.most_steps, self.smallest_step = max_iter, tol  # type: ignore[misc]  # this one's


class Flat(SCE):
    """SCE that weighs networks alike where the differences' mean squares are below 1e-6 together."""

    fewest = 1
    smallest = 1e-6
    even = 1.0


class CosinesOfLong(ModelStock):
    """Model Stock whose cosines are divided by no less than 1e-6."""

    smallest = 1e-6


class CosinesOfRows(CosinesOfLong):
    """The same with an angle for each row of a tensor."""

    def rows(self, part: Part) -> int:
        return part.entries // part.shape[-1] if part.shape else 1


class Unnormalised(MultiSLERP):
    """Multi-SLERP by weights as they are given."""

    def factors(self, name: str, count: int) -> list[float]:
        return list(self.setting(name) or [1.0] * count)
