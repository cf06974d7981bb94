"""Whether tensors agree, to the precision that they are computed in."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2}  # shares of a tensor's size: GPUs add in any order
COARSE = 0.05  # in half precision, or under autocast


def all_close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(close, found, expected))


def close(found: Tensor, expected: Tensor, floor: float = 1e-12) -> bool:
    """Whether the tensors differ by little, as a share of their size; not-a-number agrees with itself."""
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    narrow = torch.is_autocast_enabled(expected.device.type)
    tolerance = COARSE if narrow else TOLERANCE.get(expected.dtype, COARSE)
    if expected.dtype not in TOLERANCE:
        expected, found = expected.float(), found.float()
    finite = expected.isfinite()
    if not bool(finite.all()):
        if not torch.equal(finite, found.isfinite()):
            return False
        expected, found = torch.where(finite, expected, 0), torch.where(finite, found, 0)
    return float((found - expected).norm()) <= tolerance * (float(expected.norm()) + floor)
