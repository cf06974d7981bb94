"""Networks whose channels doubly stochastic matrices have mixed, and in which direction they would be more alike."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from metasum.networks.channels import ChannelGroup
    from metasum.types import Parameters

Matrices: TypeAlias = "list[list[Tensor]]"
"""For each network and each group of channels `[channels, channels]`, doubly stochastic: row i says what comes to i."""


class Universe:
    """Networks' weights, and what they are like where doubly stochastic matrices have mixed their channels."""

    def __init__(self, sets: Sequence[Parameters], groups: Sequence[ChannelGroup]) -> None:
        import torch

        self._groups = groups
        axes = [axis for group in groups for axis in group.positions if axis.name in sets[0]]
        names = dict.fromkeys(axis.name for axis in axes)
        dtype = reduce(torch.promote_types, [sets[0][name].dtype for name in names], torch.float32)
        self.sets = [{name: own[name].detach().to(dtype) for name in names} for own in sets]
        """Those that have channels in groups."""
        degree = max((sum(axis.name == name for axis in axes) for name in names), default=1)
        self.shares = [number / degree for number in range(degree + 1)]
        """Where u_i, a polynomial of that degree along a line of matrices, has to be known to be known everywhere."""

    def start(self) -> Matrices:
        """The identity for every group of every network."""
        import torch

        like = next(iter(self.sets[0].values()), torch.zeros(()))
        return [[torch.eye(group.size).to(like) for group in self._groups] for _ in self.sets]

    def mixed(self, network: int, matrices: Sequence[Tensor]) -> dict[str, Tensor]:
        """u_i, with gradients to the matrices."""
        moved = dict(self.sets[network])
        for group, matrix in zip(self._groups, matrices, strict=True):
            for axis, positions in group.positions.items():
                if axis.name in moved:
                    moved[axis.name] = _mixed(moved[axis.name], axis.dimension, positions, matrix)
        return moved

    def corners(self, matrices: Matrices, mixed: Sequence[Parameters]) -> list[list[Tensor]]:
        """The permutations in whose direction f rises most steeply, as orders of each network's groups.

        Args:
            matrices: where.
            mixed: every u_i there.
        """
        from metasum.baselines.assignment import best_orders

        total = {name: added([own[name] for own in mixed]) for name in self.sets[0]}
        slopes: list[Tensor] = []
        for network, own in enumerate(matrices):
            others = {name: total[name] - mine for name, mine in mixed[network].items()}
            slopes += self._slope(network, own, others)
        chosen = iter(best_orders(slopes))
        return [[next(chosen) for _ in own] for own in matrices]

    def _slope(self, network: int, matrices: Sequence[Tensor], others: Parameters) -> tuple[Tensor, ...]:
        """How ⟨u_i, Σ_{j≠i} u_j⟩ rises with each of a network's matrices: df, as all the others are."""
        import torch

        leaves = [matrix.clone().requires_grad_() for matrix in matrices]
        with torch.enable_grad():
            moved = self.mixed(network, leaves)
            rise = added([(moved[name] * others[name]).sum() for name in moved])
        return torch.autograd.grad(rise, leaves, materialize_grads=True)  # 0 for what no weight holds


def _mixed(tensor: Tensor, dimension: int, positions: Tensor, matrix: Tensor) -> Tensor:
    """The tensor with channels along a dimension mixed by the matrix's rows; entries of no channel stay."""
    where = positions.flatten().to(tensor.device)
    first = tensor.movedim(dimension, 0)
    channels = first.index_select(0, where).reshape(len(positions), -1)
    return first.index_copy(0, where, (matrix @ channels).reshape(len(where), *first.shape[1:])).movedim(0, dimension)


def added(some: Sequence[Any]) -> Any:
    """The sum of tensors, or of polynomials; there is at least one."""
    return reduce(operator.add, some)
