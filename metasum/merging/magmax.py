"""MagMax (Marczak et al. 2024, arXiv:2407.06322): each entry from the network that has moved it furthest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from metasum.config import option
from metasum.merging.task_arithmetic import SCALINGS, TaskArithmeticConfig
from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagMaxConfig(TaskArithmeticConfig):
    """Settings of `magmax`, with λ as the authors have it for networks trained apart."""

    scaling: float = option(0.5, "λ: factor on what a method makes of the task vectors: their sum, for one.", above=0)


class MagMax(TensorMethod):
    """θ_0 + λ · the difference of largest magnitude, entry by entry; of several as large, the last network's."""

    name = "magmax"
    summary = "Each entry from the network whose difference there is largest."
    paper = "Marczak et al. 2024, arXiv:2407.06322"
    Config = MagMaxConfig
    candidates = {"scaling": SCALINGS}
    fewest = 1
    needs_base = True
    layered = "scaling"

    def formula(self, tensors: Tensors) -> Formula:
        def merge(chunk: Chunk) -> Tensor:
            largest = furthest(chunk.differences())
            return largest.mul_(self.setting(chunk.part.name)).add_(chunk.start_values)

        return merge


def furthest(vectors: Sequence[Tensor]) -> Tensor:
    """Of each entry that of largest magnitude, of several as large the last vector's; new, `[n]`.

    By the largest and the smallest one: PyTorch takes ten times as long to choose between two vectors entry by entry.

    Args:
        vectors: `[n]` each, one or more.
    """
    import torch

    high, low = vectors[0].clone(), vectors[0].clone()
    for vector in vectors[1:]:
        torch.maximum(high, vector, out=high)
        torch.minimum(low, vector, out=low)
    sign = high + low
    even = (sign == 0).nonzero().flatten()  # x and -x, or nothing but 0
    found = torch.copysign(torch.maximum(high, low.neg_(), out=high), sign)
    if len(even):
        some = torch.stack([vector[even] for vector in vectors]).flip(0)
        sizes = some.abs()
        found[even] = some.gather(0, sizes.argmax(dim=0, keepdim=True))[0]
    return found
