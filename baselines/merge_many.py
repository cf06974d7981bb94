"""MergeMany (Ainsworth et al. 2023, Git Re-Basin, arXiv:2209.04836, algorithm 3): any number of networks, then average.

Each network in turn is permuted to match the mean of all the others as they stand by then, again and again until
nothing is gained. Each step raises Σ_{i<j} ⟨θ_i, θ_j⟩, the weights' likeness over all pairs of networks, or leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metasum.baselines.channel_matching import JointMatching

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from metasum.merging.endpoints import Endpoint
    from metasum.networks.channels import ChannelGroup
    from metasum.networks.permuting import Entries
    from metasum.types import Parameters

SWEEPS = 100  # more than any networks here have needed


class MergeMany(JointMatching):
    """The average of all networks, each permuted to match the mean of the others; the seed is of the order of steps.

    Where the paper starts from networks as they come, whose mean is like none of them, here each is first matched to
    the mean of those before it. So permuted copies of one network come out alike, and two are matched at least as well
    as by `weight-matching`.
    """

    name = "merge-many"
    summary = "Permutes each network in turn to match the mean of the others."
    paper = "Ainsworth et al. 2023, arXiv:2209.04836"
    random = True

    def common_order(self, endpoints: Sequence[Endpoint], groups: Sequence[ChannelGroup]) -> list[Entries]:
        import torch

        from metasum.networks.permuting import in_turn

        generator = torch.Generator().manual_seed(self.seed)
        steps = merge_many([end.parameters for end in endpoints], groups, generator=generator)
        return [in_turn(groups, own, end.network.state_dict()) for end, own in zip(endpoints, steps, strict=True)]


def merge_many(
    sets: Sequence[Parameters], groups: Sequence[ChannelGroup], *, generator: torch.Generator, sweeps: int = SWEEPS
) -> list[list[list[Tensor]]]:
    """For each network, the orders of the groups that it is to be put in, one after the other.

    Args:
        sets: of one or more networks.
        groups: of their channels.
        generator: of the order in which networks and groups have their turns.
        sweeps: how often each network has its turn, at most, after it is matched to those before it.
    """
    import torch

    from metasum.baselines.weight_matching import match
    from metasum.networks.permuting import permuted
    from metasum.weights.composition import average_parameters

    moved = [{name: tensor.detach() for name, tensor in own.items()} for own in sets]
    steps: list[list[list[Tensor]]] = [[] for _ in sets]

    def match_one(turn: int, others: Sequence[Parameters]) -> bool:
        mean = average_parameters(others) if len(others) > 1 else others[0]
        orders = match(mean, moved[turn], groups, generator=generator)
        if all(torch.equal(order, torch.arange(len(order))) for order in orders):
            return False
        moved[turn] = permuted(moved[turn], groups, orders)
        steps[turn].append(orders)
        return True

    for turn in range(1, len(sets)):
        match_one(turn, moved[:turn])
    for _ in range(sweeps if len(sets) > 1 else 0):
        gained = False
        for turn in torch.randperm(len(sets), generator=generator).tolist():
            gained |= match_one(turn, [*moved[:turn], *moved[turn + 1 :]])
        if not gained:
            break
    return steps
