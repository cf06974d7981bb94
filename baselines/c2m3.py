"""C2M3 (Crisostomi et al. 2024, arXiv:2405.17897): cycle-consistent matching of any number of networks, then average.

Every network has permutations to one universe that belongs to none of them, so that going from a to b and on to c
is going from a to c. All permutations of all networks are found at once: among doubly stochastic matrices, of which
permutations are the corners, the Frank-Wolfe algorithm climbs f = Σ_{i<j} ⟨u_i, u_j⟩, where u_i is network i brought
into the universe. In the end every matrix is replaced by the permutation nearest to it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

from metasum.baselines.channel_matching import JointMatching

if TYPE_CHECKING:
    from torch import Tensor

    from metasum.merging.endpoints import Endpoint
    from metasum.networks.channels import ChannelGroup
    from metasum.networks.permuting import Entries
    from metasum.types import Parameters

STEPS = 200  # of Frank-Wolfe, at most; the authors' number
LEAST = 1e-4  # share of the objective that counts as a gain

Matrices: TypeAlias = "list[list[Tensor]]"
"""For each network and each group of channels `[channels, channels]`, doubly stochastic: row i says what comes to i."""


class C2M3(JointMatching):
    """The average of all networks in one universe: their permutations to it are cycle-consistent.

    Matrices start at the identity, and each step has the length that is best of all (the objective is a polynomial of
    it), so that nothing is drawn. What the nearest permutations leave to gain is then gained by MergeMany's sweeps,
    which the paper does not do: permuted copies of one network all come out alike.
    """

    name = "c2m3"
    summary = "Permutes all networks into one universe, all layers at once."
    paper = "Crisostomi et al. 2024, arXiv:2405.17897"

    def common_order(self, endpoints: Sequence[Endpoint], groups: Sequence[ChannelGroup]) -> list[Entries]:
        from metasum.networks.permuting import in_turn

        steps = to_universe([end.parameters for end in endpoints], groups)
        return [in_turn(groups, own, end.network.state_dict()) for end, own in zip(endpoints, steps, strict=True)]


def to_universe(sets: Sequence[Parameters], groups: Sequence[ChannelGroup]) -> list[list[list[Tensor]]]:
    """For each network, the orders of the groups that it is to be put in, one after the other.

    Args:
        sets: of one or more networks, on one device.
        groups: of their channels.
    """
    import torch

    from metasum.baselines.assignment import best_orders
    from metasum.baselines.merge_many import merge_many
    from metasum.networks.permuting import permuted

    nearest = [best_orders(own) for own in climb(sets, groups)]
    moved = [permuted(own, groups, orders) for own, orders in zip(sets, nearest, strict=True)]
    left = merge_many(moved, groups, generator=torch.Generator().manual_seed(0))
    return [[orders, *more] for orders, more in zip(nearest, left, strict=True)]


def climb(sets: Sequence[Parameters], groups: Sequence[ChannelGroup], *, steps: int = STEPS) -> Matrices:
    """The matrices at which Frank-Wolfe ends; the objective never falls on the way."""
    universe = Universe(sets, groups)
    matrices = universe.start()
    value = universe.objective(matrices)
    for _ in range(steps if len(sets) > 1 and groups else 0):
        corners = universe.corners(matrices)
        found = {0.0: value} | {step: universe.objective(_between(matrices, corners, step)) for step in universe.nodes}
        step = _highest(found)
        new = _between(matrices, corners, step)
        reached = found[step] if step in found else universe.objective(new)
        if not reached > value + LEAST * abs(value):
            break
        matrices, value = new, reached
    return matrices


class Universe:
    """Networks' weights, and what they are like where doubly stochastic matrices have mixed their channels."""

    def __init__(self, sets: Sequence[Parameters], groups: Sequence[ChannelGroup]) -> None:
        import torch

        self._groups = groups
        axes = [axis for group in groups for axis in group.positions if axis.name in sets[0]]
        names = dict.fromkeys(axis.name for axis in axes)
        dtype = reduce(torch.promote_types, [sets[0][name].dtype for name in names], torch.float32)
        self._sets = [{name: own[name].detach().to(dtype) for name in names} for own in sets]
        degree = 2 * max((sum(axis.name == name for axis in axes) for name in names), default=1)
        self.nodes = [(1 - math.cos(math.pi * number / degree)) / 2 for number in range(1, degree + 1)]
        """Where the objective along a line, a polynomial of that degree, is looked at, beside 0; the last is 1."""

    def start(self) -> Matrices:
        """The identity for every group of every network."""
        import torch

        return [
            [torch.eye(group.size).to(next(iter(own.values()))) for group in self._groups] if own else []
            for own in self._sets
        ]

    def mixed(self, network: int, matrices: Sequence[Tensor]) -> dict[str, Tensor]:
        """u_i, with gradients to the matrices."""
        moved = dict(self._sets[network])
        for group, matrix in zip(self._groups, matrices, strict=True):
            for axis, positions in group.positions.items():
                if axis.name in moved:
                    moved[axis.name] = _mixed(moved[axis.name], axis.dimension, positions, matrix)
        return moved

    def objective(self, matrices: Matrices) -> float:
        """f, in float64: half of ‖Σ u_i‖² - Σ ‖u_i‖²."""
        every = [self.mixed(network, own) for network, own in enumerate(matrices)]
        total = 0.0
        for name in self._sets[0]:
            some = [own[name].double() for own in every]
            total += float(_added(some).square().sum() - _added([own.square().sum() for own in some])) / 2
        return total

    def corners(self, matrices: Matrices) -> Matrices:
        """The permutations in whose direction f rises most steeply from here, one for each matrix."""
        import torch

        from metasum.baselines.assignment import best_orders

        every = [self.mixed(network, own) for network, own in enumerate(matrices)]
        total = {name: _added([own[name] for own in every]) for name in self._sets[0]}
        slopes: list[Tensor] = []
        for network, own in enumerate(matrices):
            others = {name: total[name] - mine for name, mine in every[network].items()}
            slopes += self._slope(network, own, others)
        chosen = iter(best_orders(slopes))
        return [[torch.eye(len(matrix)).to(matrix)[next(chosen)] for matrix in own] for own in matrices]

    def _slope(self, network: int, matrices: Sequence[Tensor], others: Parameters) -> tuple[Tensor, ...]:
        """How ⟨u_i, Σ_{j≠i} u_j⟩ rises with each of a network's matrices: df, as all the others are."""
        import torch

        leaves = [matrix.clone().requires_grad_() for matrix in matrices]
        with torch.enable_grad():
            mixed = self.mixed(network, leaves)
            rise = _added([(mixed[name] * others[name]).sum() for name in mixed])
        return torch.autograd.grad(rise, leaves)


def _added(some: Sequence[Tensor]) -> Tensor:
    return reduce(operator.add, some)


def _mixed(tensor: Tensor, dimension: int, positions: Tensor, matrix: Tensor) -> Tensor:
    """The tensor with channels along a dimension mixed by the matrix's rows; entries of no channel stay."""
    where = positions.flatten().to(tensor.device)
    first = tensor.movedim(dimension, 0)
    channels = first.index_select(0, where).reshape(len(positions), -1)
    return first.index_copy(0, where, (matrix @ channels).reshape(len(where), *first.shape[1:])).movedim(0, dimension)


def _between(one: Matrices, other: Matrices, step: float) -> Matrices:
    """A share of the way from one to the other."""
    pairs = zip(one, other, strict=True)
    return [[a.lerp(b, step) for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs]


def _highest(values: Mapping[float, float]) -> float:
    """Where in [0, 1] the polynomial through these values is highest."""
    from numpy.polynomial import Polynomial

    curve: Any = Polynomial.fit([*values], [*values.values()], len(values) - 1, domain=[0, 1])
    turns = [float(root.real) for root in curve.deriv().roots() if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    return max([*turns, *values], key=lambda step: float(curve(step)))
