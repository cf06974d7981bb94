"""SLERP (Shoemake 1985, "Animating rotation with quaternion curves"): along the arc between two networks' tensors.

Each tensor is one vector. Where the angle is below 1e-6 or a norm is 0, linear; mergekit goes over to linear at a
cosine of 0.9995 already.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metasum.baselines.merging import Endpoint, Merger
from metasum.errors import UsageError
from metasum.types import Parameters
from metasum.weights.parameters import check_same_architecture

SMALLEST_ANGLE = 1e-6  # radians


def slerp_merger(*, position: float) -> Merger:
    """Spherical interpolation of two networks, `position` of the way from the first (0) to the second (1).

    The merger raises UsageError for another number of networks than two.
    """

    def merge(endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        if len(endpoints) != 2:
            raise UsageError(f"slerp takes two networks, not {len(endpoints)}.")
        first, second = (endpoint.parameters for endpoint in endpoints)
        check_same_architecture([first, second])
        return {name: slerp(tensor, second[name], position) for name, tensor in first.items()}

    return merge


def slerp(first: Tensor, second: Tensor, position: float) -> Tensor:
    """sin((1-t)Ω)/sin Ω · first + sin(tΩ)/sin Ω · second, Ω the angle between two tensors of one shape."""
    linear = torch.lerp(first, second, position)
    lengths = first.norm() * second.norm()
    if lengths == 0:
        return linear
    angle = torch.acos(((first * second).sum().double() / lengths.double()).clamp(-1, 1))
    if angle < SMALLEST_ANGLE or torch.pi - angle < SMALLEST_ANGLE:  # opposite tensors have no one arc
        return linear
    weights = torch.sin((1 - position) * angle) / torch.sin(angle), torch.sin(position * angle) / torch.sin(angle)
    return (weights[0] * first.double() + weights[1] * second.double()).to(first.dtype)
