"""Which axes of a network's tensors hold the same channels, and so can only be permuted together.

Found by following the channels through the network's graph (torch.fx): a convolution or linear layer starts a new
group, normalisation and activations carry it on, an addition joins two, a flatten gives each channel a block.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from metasum.errors import ArchitectureError, reason

CARRIES = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Identity, nn.Dropout, nn.Dropout2d,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten,
)  # fmt: skip
CARRYING_FUNCTIONS = (torch.relu, nn.functional.relu, torch.flatten, nn.functional.max_pool2d, nn.functional.dropout)
ADDITIONS: tuple[Callable[..., Any], ...] = (operator.add, operator.iadd, torch.add)


class Axis(NamedTuple):
    """One dimension of one tensor of a network's state."""

    name: str
    dimension: int


def channel_groups(network: nn.Module) -> list[list[Axis]]:
    """Groups of axes that move together; the input's channels and the output's stay where they are.

    Args:
        network: made of convolutions, linear layers, batch norms, activations, pooling, flatten and additions.

    Raises:
        ArchitectureError: the network cannot be traced, or has a layer that is none of these; it is named.
    """
    try:
        graph = fx.symbolic_trace(network).graph
    except Exception as error:  # whatever the network's own code does with a stand-in for a tensor
        raise ArchitectureError(f"the channels of this network cannot be followed ({reason(error)}).") from error
    groups = _Groups()
    at: dict[Any, int] = {}  # the group of each value's channels
    for node in graph.nodes:
        if node.op == "placeholder":
            at[node] = groups.fixed
        elif node.op == "output":
            groups.join(at[node.args[0]], groups.fixed)
        elif node.op == "call_module":
            at[node] = _through(network.get_submodule(str(node.target)), str(node.target), at[node.args[0]], groups)
        elif node.target in ADDITIONS:
            at[node] = groups.join(*(at[value] for value in node.args))
        elif node.target in CARRYING_FUNCTIONS or node.target in ("relu", "flatten"):
            at[node] = at[node.args[0]]
        else:
            raise ArchitectureError(f"it is not known what {node.target} does to channels.")
    return groups.movable()


class _Groups:
    """Sets of axes that can be joined. Group `fixed` holds those that must not move."""

    def __init__(self) -> None:
        self.fixed = 0
        self._parent: list[int] = [0]
        self._axes: list[list[Axis]] = [[]]

    def new(self) -> int:
        self._parent.append(len(self._parent))
        self._axes.append([])
        return self._parent[-1]

    def add(self, group: int, *axes: Axis) -> None:
        self._axes[self._root(group)] += axes

    def join(self, *groups: int) -> int:
        first, *others = sorted({self._root(group) for group in groups})
        for other in others:
            self._parent[other] = first
            self._axes[first] += self._axes[other]
        return first

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def movable(self) -> list[list[Axis]]:
        roots = {self._root(group) for group in range(len(self._parent))} - {self.fixed}
        return [sorted(set(self._axes[root])) for root in sorted(roots)]


def _through(module: nn.Module, name: str, group: int, groups: _Groups) -> int:
    """The group that channels of `group` belong to behind `module`."""
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
        groups.add(group, Axis(f"{name}.weight", 1))
        group = groups.new()
        groups.add(group, Axis(f"{name}.weight", 0))
        if module.bias is not None:
            groups.add(group, Axis(f"{name}.bias", 0))
        return group
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) or (
        isinstance(module, nn.GroupNorm) and module.num_groups in (1, module.num_channels)
    ):
        vectors = [key for key, tensor in module.state_dict().items() if tensor.ndim == 1]
        groups.add(group, *(Axis(f"{name}.{key}", 0) for key in vectors))
        return group
    if isinstance(module, CARRIES):
        return group
    raise ArchitectureError(f"it is not known what {name!r} ({type(module).__name__}) does to channels.")
