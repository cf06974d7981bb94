"""Putting a network's channels in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metasum.networks.channels import ChannelGroup


def permuted(
    tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], orders: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Parameters (or a whole state, buffers included) with every group's channels in the given order: a new mapping."""
    moved = dict(tensors)
    for group, order in zip(groups, orders, strict=True):
        for axis, positions in group.positions.items():
            if axis.name in moved:
                tensor = moved[axis.name]
                index = torch.arange(tensor.shape[axis.dimension])
                index[positions.flatten()] = positions[order].flatten()
                moved[axis.name] = tensor.index_select(axis.dimension, index.to(tensor.device))
    return moved


def permute_network(network: nn.Module, groups: Sequence[ChannelGroup], orders: Sequence[Tensor]) -> None:
    """Puts every group's channels in the given order, batch-norm statistics included, in place: the same function."""
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in permuted(state, groups, orders).items():
            state[name].copy_(tensor)
