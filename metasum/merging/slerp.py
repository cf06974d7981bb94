"""SLERP (Shoemake 1985, "Animating rotation with quaternion curves"): along the arc between two networks' tensors.

Each tensor is one vector. Where the angle is within 1e-6 of 0 or of a half turn, or a norm is 0, linear; mergekit goes
over to linear at a cosine of 0.9995 already.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from metasum.config import Checked, option
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_ANGLE = 1e-6  # radians


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLERPConfig(Checked):
    """Settings of `slerp`."""

    position: float = option(
        0.5, "How far SLERP goes from the first network (0) to the second (1).", minimum=0, maximum=1
    )


class SLERP(TensorMethod):
    """sin((1-t)Ω)/sin Ω · θ_1 + sin(tΩ)/sin Ω · θ_2, Ω the angle between two tensors; in float64."""

    name = "slerp"
    summary = "Interpolates on the sphere, tensor by tensor."
    paper = "Shoemake 1985"
    Config = SLERPConfig
    candidates = {"position": (0.3, 0.5, 0.7)}
    exactly = 2
    layered = "position"
    smallest_angle: ClassVar[float] = SMALLEST_ANGLE

    def formula(self, tensors: Tensors) -> Formula:
        weights = self._weights(tensors)

        def merge(chunk: Chunk) -> Tensor:
            pair = zip(chunk.values, weights[chunk.part.name], strict=True)
            first, second = (value.double().mul_(weight) for value, weight in pair)
            return chunk.values[0].copy_(first.add_(second))

        return merge

    def readings(self, parts: Sequence[Part]) -> int:
        return 2

    def _weights(self, tensors: Tensors) -> dict[str, tuple[float, float]]:
        """For each tensor, the factors on the first and on the second network's."""
        from metasum.merging.sums import summed

        def products(chunk: Chunk) -> list[Tensor]:
            first, second = (values.double() for values in chunk.values)
            return [first * second, first * first, second * second]

        return {
            name: on_the_arc(*sums, position=self.setting(name), smallest_angle=self.smallest_angle)
            for name, sums in summed(tensors, products).items()
        }


def on_the_arc(
    product: float, first: float, second: float, *, position: float, smallest_angle: float = SMALLEST_ANGLE
) -> tuple[float, float]:
    """Both factors, from ⟨θ_1, θ_2⟩ and both squared norms; linear within the angle of 0 or a half turn."""
    lengths = math.sqrt(first) * math.sqrt(second)
    angle = math.acos(max(-1.0, min(1.0, product / lengths))) if lengths > 0 else 0.0
    if not smallest_angle <= angle <= math.pi - smallest_angle:
        return 1 - position, position
    return math.sin((1 - position) * angle) / math.sin(angle), math.sin(position * angle) / math.sin(angle)
