"""Putting a network's channels in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor, nn

from metasum.networks.channels import Axis, ChannelGroup

Entries: TypeAlias = Mapping[Axis, Tensor]
"""For each axis int64 `[size]`: place i along it takes the entry with that number."""


def entries_of(groups: Sequence[ChannelGroup], orders: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Entries:
    """What every group's channels in the given order mean for the axes of the tensors that are there."""
    found = dict[Axis, Tensor]()
    for group, order in zip(groups, orders, strict=True):
        for axis, positions in group.positions.items():
            if axis.name in tensors:
                before = found.get(axis, torch.arange(tensors[axis.name].shape[axis.dimension]))
                found[axis] = before.clone()
                found[axis][positions.flatten()] = before[positions[order].flatten()]
    return found


def in_turn(
    groups: Sequence[ChannelGroup], steps: Sequence[Sequence[Tensor]], tensors: Mapping[str, Tensor]
) -> Entries:
    """What several orders of all groups mean, each applied to what the one before has made."""
    return reduce(one_after_another, (entries_of(groups, orders, tensors) for orders in steps), {})


def one_after_another(first: Entries, second: Entries) -> Entries:
    """The two orders as one; an axis that one of them lacks stays as it is in that one."""
    both = {axis: own[second[axis]] for axis, own in first.items() if axis in second}
    return {**first, **second, **both}


def undoing(entries: Entries) -> Entries:
    """The order that brings everything back to where it was."""
    return {axis: own.argsort() for axis, own in entries.items()}


def in_order(tensors: Mapping[str, Tensor], entries: Entries) -> dict[str, Tensor]:
    """A new mapping of the same tensors, with the axes' entries in the given order."""
    moved = dict(tensors)
    for axis, index in entries.items():
        if axis.name in moved:
            moved[axis.name] = moved[axis.name].index_select(axis.dimension, index.to(moved[axis.name].device))
    return moved


def permuted(
    tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], orders: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Parameters (or a whole state, buffers included) with every group's channels in the given order: a new mapping."""
    return in_order(tensors, entries_of(groups, orders, tensors))


def permute_network(network: nn.Module, groups: Sequence[ChannelGroup], orders: Sequence[Tensor]) -> None:
    """Puts every group's channels in the given order, batch-norm statistics included, in place: the same function."""
    put_in_order(network, entries_of(groups, orders, network.state_dict()))


def put_in_order(network: nn.Module, entries: Entries) -> None:
    """Puts the entries of a network's parameters and buffers in the given order, in place."""
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in in_order(state, entries).items():
            state[name].copy_(tensor)
