"""Layers of independent blocks: each reads its own inputs and no others (Krizhevsky et al. 2012)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """What a grouped convolution is to a convolution: each of `groups` parts of the outputs reads its own inputs only.

    Args:
        in_features, out_features: of all groups together.
        groups: divides both.
        bias: add one.
    """

    def __init__(self, in_features: int, out_features: int, groups: int, *, bias: bool = True) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out_features, in_features // groups))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, features: Tensor) -> Tensor:
        """`[N, in_features]` to `[N, out_features]`."""
        own = self.weight.shape[1]
        blocks = self.weight.reshape(self.groups, -1, own)
        outputs = torch.einsum("ngi,goi->ngo", features.reshape(-1, self.groups, own), blocks).flatten(1)
        return outputs if self.bias is None else outputs + self.bias


def grouped_layer(like: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None, groups: int) -> nn.Module:
    """A layer of `groups` blocks that does otherwise what `like` does.

    Args:
        like: gives stride, padding and so on.
        weight: of all blocks, one after the other: `[out, in / groups, …]`; copied.
        bias: `[out]`; copied.
        groups: 1 for a layer that is no block.
    """
    out, into = weight.shape[0], weight.shape[1] * groups
    layer: nn.Module
    if isinstance(like, nn.Linear):
        layer = nn.Linear(into, out) if groups == 1 else GroupedLinear(into, out, groups)
    else:
        layer = copy.deepcopy(like)
        layer.in_channels, layer.out_channels, layer.groups = into, out, groups
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
    return layer.train(like.training)


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts `layer` where `network` has the submodule `name`, in place."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, layer)
