"""C2M3 (Crisostomi et al. 2024, arXiv:2405.17897): cycle-consistent matching of any number of networks, then average.

Every network has permutations to one universe that belongs to none of them, so that going from a to b and on to c
is going from a to c. All permutations of all networks are found at once: among doubly stochastic matrices, of which
permutations are the corners, the Frank-Wolfe algorithm climbs f = Σ_{i<j} ⟨u_i, u_j⟩, where u_i is network i brought
into the universe. In the end every matrix is replaced by the permutation nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metasum.baselines.channel_matching import JointMatching
from metasum.baselines.universe import Matrices, Universe, added

if TYPE_CHECKING:
    from numpy.polynomial import Polynomial
    from torch import Tensor

    from metasum.merging.endpoints import Endpoint
    from metasum.networks.channels import ChannelGroup
    from metasum.networks.permuting import Entries
    from metasum.types import Parameters

STEPS = 200  # of Frank-Wolfe, at most; the authors' number
LEAST = 1e-3  # share of the objective that counts as a gain


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
    from metasum.networks.permuting import permuted

    universe = Universe(sets, groups)
    matrices = universe.start()
    mixed = [universe.mixed(network, own) for network, own in enumerate(matrices)]
    for _ in range(steps if len(sets) > 1 and universe.sets[0] else 0):
        orders = universe.corners(matrices, mixed)
        corners = [
            [_matrix(order, like) for order, like in zip(*own, strict=True)]
            for own in zip(orders, matrices, strict=True)
        ]
        between = [_between(matrices, corners, share) for share in universe.shares[1:-1]]
        line = [
            mixed,
            *([universe.mixed(network, own) for network, own in enumerate(some)] for some in between),
            [permuted(own, groups, chosen) for own, chosen in zip(universe.sets, orders, strict=True)],
        ]
        curve, terms = _along(line, universe.shares)
        step = _highest(curve)
        if not curve(step) > curve(0) + LEAST * abs(curve(0)):
            break
        matrices = _between(matrices, corners, step)
        mixed = [
            _weighted([own[network] for own in line], [term(step) for term in terms]) for network in range(len(sets))
        ]
    return matrices


def _along(line: Sequence[Sequence[Parameters]], shares: Sequence[float]) -> tuple[Polynomial, list[Polynomial]]:
    """The objective along a line; and the weight that each share of the line has in u_i anywhere else on it.

    Args:
        line: every u_i at each share.
        shares: of the line, as many as make the u_i known.
    """
    import torch
    from numpy.polynomial import Polynomial

    terms = []
    for share in shares:
        others = [other for other in shares if other != share]
        terms.append(Polynomial.fromroots(others) / math.prod(share - other for other in others))
    products = torch.zeros(len(shares), len(shares), dtype=torch.float64)
    for name in line[0][0]:
        every = [
            torch.stack([own[network][name].flatten() for own in line]).double() for network in range(len(line[0]))
        ]
        together = added(every)
        products += (together @ together.T - added([own @ own.T for own in every])).cpu()
    pairs = [(float(products[i, j]) / 2, terms[i] * terms[j]) for i in range(len(shares)) for j in range(len(shares))]
    return added([weight * term for weight, term in pairs]), terms


def _weighted(some: Sequence[Parameters], weights: Sequence[float]) -> dict[str, Tensor]:
    return {name: added([own[name] * float(w) for own, w in zip(some, weights, strict=True)]) for name in some[0]}


def _matrix(order: Tensor, like: Tensor) -> Tensor:
    """A permutation as a matrix: row i has its 1 where the channel is that comes to i."""
    import torch

    return torch.eye(len(order)).to(like)[order]


def _between(one: Matrices, other: Matrices, step: float) -> Matrices:
    """A share of the way from one to the other."""
    pairs = zip(one, other, strict=True)
    return [[a.lerp(b, step) for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs]


def _highest(curve: Any) -> float:
    """Where in [0, 1] a polynomial is highest."""
    turns = [float(root.real) for root in curve.deriv().roots() if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    return max([0.0, 1.0, *turns], key=lambda step: float(curve(step)))
