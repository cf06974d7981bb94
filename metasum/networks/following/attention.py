"""Attention in words that the rules know: linear layers, matrix products and softmax, followed one by one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, softmax

from metasum.errors import ArchitectureError


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **others: Any) -> Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention`, without scale: for the channels, not the values.

    Raises:
        ArchitectureError: there are fewer keys than queries (`enable_gqa`).
    """
    if query.shape[-3:-2] != key.shape[-3:-2]:
        raise ArchitectureError("the channels of attention with fewer keys than queries cannot be followed.")
    mask = rest[0] if rest else others.get("attn_mask")
    scores = query @ key.transpose(-2, -1)
    if mask is not None and mask.is_floating_point():
        scores = scores + mask
    elif mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    return softmax(scores, dim=-1) @ value


def multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    *rest: Any,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """As `torch.nn.functional.multi_head_attention_forward`: for the channels, not the values.

    Returns:
        What attends `[L, N, E]`, and each head's scores `[N, heads, L, S]`.

    Raises:
        ArchitectureError: keys or values get a bias of their own, or the mask is one for each head.
    """
    bias_k, bias_v, add_zero_attn, _, out_weight, out_bias, *_ = rest
    mask = others.get("attn_mask")
    if bias_k is not None or bias_v is not None or add_zero_attn or (mask is not None and mask.ndim > 2):
        raise ArchitectureError(
            "the channels of attention with bias_k, bias_v, zeros or a mask for each head are unknown."
        )
    each = [others.get(f"{name}_proj_weight") for name in "qkv"]
    streams = []
    for index, (stream, weight) in enumerate(zip((query, key, value), each, strict=True)):
        own = slice(index * embed_dim_to_check, (index + 1) * embed_dim_to_check)
        if others.get("use_separate_proj_weight"):
            mapped = linear(stream, weight)  # type: ignore[arg-type]
            mapped = mapped if in_proj_bias is None else mapped + in_proj_bias[own]
        else:
            mapped = linear(stream, in_proj_weight, in_proj_bias)[..., own]  # type: ignore[arg-type]
        heads = mapped.reshape(*mapped.shape[:-1], num_heads, embed_dim_to_check // num_heads)
        streams.append(heads.movedim(0, -2))  # [N, heads, L, E / heads]
    q, k, v = streams
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    if (padding := others.get("key_padding_mask")) is not None:
        scores = scores + (padding[:, None, None] if padding.ndim == 2 else padding)
    scores = softmax(scores, dim=-1)
    attended = (scores @ v).movedim(-2, 0).flatten(-2)
    return linear(attended, out_weight, out_bias), scores


def gated(input: Tensor, dim: int = -1) -> Tensor:
    """As `torch.nn.functional.glu`."""
    own, gate = input.chunk(2, dim=dim)
    return own * torch.sigmoid(gate)


def einsum(equation: str, first: Tensor, second: Tensor) -> Tensor:
    """As `torch.einsum` of two tensors, as one matrix product.

    Raises:
        ArchitectureError: a letter is there twice in one tensor, or is summed over in one alone; or there are dots.
    """
    inputs, _, output = equation.replace(" ", "").partition("->")
    one, _, two = inputs.partition(",")
    both = [letter for letter in one if letter in two and letter in output]
    summed = [letter for letter in one if letter in two and letter not in output]
    rows, columns = ([letter for letter in own if letter not in (*both, *summed)] for own in (one, two))
    once = all(len(set(own)) == len(own) for own in (one, two, output))
    if not once or "." in equation or sorted(output) != sorted([*both, *rows, *columns]):
        raise ArchitectureError(f"the channels of einsum {equation!r} cannot be followed.")
    sizes = dict(zip(one + two, (*first.shape, *second.shape), strict=True))
    shape = [[sizes[letter] for letter in letters] for letters in (both, rows, columns)]
    a = first.permute([one.index(letter) for letter in (*both, *rows, *summed)])
    b = second.permute([two.index(letter) for letter in (*both, *summed, *columns)])
    product = a.reshape(*shape[0], math.prod(shape[1]), -1) @ b.reshape(*shape[0], -1, math.prod(shape[2]))
    found = product.reshape(*shape[0], *shape[1], *shape[2])
    letters = [*both, *rows, *columns]
    return found.permute([letters.index(letter) for letter in output])
