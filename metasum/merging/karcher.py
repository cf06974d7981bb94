"""The Karcher mean on the sphere (Karcher 1977; Moakher 2002; as mergekit's `karcher`): the mean of N directions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-10  # length of a mean that has a direction


class Karcher(TensorMethod):
    """The point of the sphere with the least squared arcs to all tensors' directions, times the mean of their norms.

    Each tensor is one vector, in float64. From the normalised mean of the directions, the mean is moved along the mean
    of the tangents that lead to them until it rests. Tensors of zeros have no direction, and count in the norm alone;
    where a direction is opposite to the mean, no arc to it is the shortest, and it is left out of that step. mergekit
    stops after ten steps, or at a step of 1e-5.
    """

    name = "karcher"
    summary = "The mean of the networks' directions on the sphere, tensor by tensor, times their mean norm."
    paper = "Karcher 1977"
    whole_tensors = True
    most_steps: ClassVar[int] = 100
    smallest_step: ClassVar[float] = 1e-10
    """In radians: the mean rests."""

    def formula(self, tensors: Tensors) -> Formula:
        def merge(chunk: Chunk) -> Tensor:
            values = [value.double() for value in chunk.values]
            norms = [float(value.norm()) for value in values]
            units = [value / norm for value, norm in zip(values, norms, strict=True) if norm]
            if not units:
                return chunk.values[0]
            return chunk.values[0].copy_(
                _direction(units, self.most_steps, self.smallest_step).mul_(sum(norms) / len(norms))
            )

        return merge


def _direction(units: list[Tensor], most_steps: int, smallest_step: float) -> Tensor:
    """The Karcher mean of unit vectors, `[n]`, of norm 1."""
    import torch

    mean = torch.stack(units).mean(0)
    length = float(mean.norm())
    mean = mean / length if length > SMALLEST else units[0].clone()
    for _ in range(most_steps):
        tangent = torch.zeros_like(mean)
        for unit in units:
            across = unit - unit.dot(mean) * mean
            sine = float(across.norm())
            if sine > 0:
                tangent += across * (math.atan2(sine, float(unit.dot(mean))) / sine)
        step = float(tangent.div_(len(units)).norm())
        if step < smallest_step:
            break
        mean = math.cos(step) * mean + (math.sin(step) / step) * tangent
        mean = mean / mean.norm()
    return mean
