"""The methods' arithmetic on one piece. Everything here writes into the chunk that it is given.

The same bits come out wherever a tensor is cut: there is no operation that treats the end of a vector otherwise than
its middle (as fused multiply-adds may).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from metasum.weights.merging.reading import Chunk

Formula: TypeAlias = Callable[[Chunk], Tensor]
"""From a chunk to the merged entries, `[n]`."""


def total(values: Sequence[Tensor]) -> Tensor:
    """Their sum, in the first one's place."""
    for other in values[1:]:
        values[0].add_(other)
    return values[0]


def average(chunk: Chunk) -> Tensor:
    """(θ_1 + … + θ_N) / N."""
    return total(chunk.values).div_(len(chunk.values))


def weighted(chunk: Chunk, weights: Sequence[float]) -> Tensor:
    """Σ w_i θ_i."""
    return total([value.mul_(weight) for value, weight in zip(chunk.values, weights, strict=True)])


def differences(chunk: Chunk) -> list[Tensor]:
    """δ_i = θ_i - θ_0, in the θ_i's place."""
    return [value.sub_(_base(chunk)) for value in chunk.values]


def onto_base(chunk: Chunk, merged: Tensor, scaling: float) -> Tensor:
    """θ_0 + λ · merged, in merged's place."""
    return merged.mul_(scaling).add_(_base(chunk))


def keep_largest(vectors: Sequence[Tensor], bounds: Sequence[float]) -> list[Tensor]:
    """0 in place of every entry whose magnitude is at most its vector's bound."""
    for vector, bound in zip(vectors, bounds, strict=True):
        torch.ops.aten.hardshrink.out(vector, bound, out=vector)
    return list(vectors)


def disjoint_mean(vectors: Sequence[Tensor]) -> Tensor:
    """Mean of the entries whose sign is that of their sum; 0 where there are none (TIES, see baselines/ties.py)."""
    sign = vectors[0].clone()
    for other in vectors[1:]:
        sign.add_(other)
    sign.sign_()
    for vector in vectors:
        vector.mul_(sign).clamp_(min=0)  # magnitudes, where the signs agree
    count, agrees = torch.zeros_like(sign), torch.empty_like(sign)
    for vector in vectors:
        count.add_(torch.gt(vector, 0, out=agrees))
    return total(vectors).div_(count.clamp_(min=1)).mul_(sign)


def on_the_arc(chunk: Chunk, weights: tuple[float, float]) -> Tensor:
    """w_1 θ_1 + w_2 θ_2, in float64."""
    first, second = (value.double().mul_(weight) for value, weight in zip(chunk.values, weights, strict=True))
    return chunk.values[0].copy_(first.add_(second))


def _base(chunk: Chunk) -> Tensor:
    if chunk.base is None:
        raise ValueError("a method that works on differences was given no base")
    return chunk.base
