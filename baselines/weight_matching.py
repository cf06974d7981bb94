"""Weight matching (Ainsworth et al. 2023, Git Re-Basin, arXiv:2209.04836, algorithm 1): align channels, then average.

A hidden layer's channels may stand in any order without changing the function. Every network is brought into the
order of the first that makes their weights most alike, by one assignment problem for each set of channels that must
move together, again and again in random order until nothing is gained. That the permuted network still computes what
it did is looked at on its own images before it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metasum.merging.endpoints import AligningMethod, Endpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from metasum.networks.channels import Axis, ChannelGroup
    from metasum.types import Parameters

SWEEPS = 100  # more than any network here has needed
IMAGES = 8  # that a permuted network is looked at on


class WeightMatching(AligningMethod):
    """The average of all networks, each permuted to match the first; the seed is of the order of groups visited."""

    name = "weight-matching"
    summary = "Permutes the second network's channels to match the first's."
    paper = "Ainsworth et al. 2023, arXiv:2209.04836"
    needs_networks = True
    random = True
    two_starts = True

    def align(self, endpoint: Endpoint, to: Endpoint) -> nn.Module:
        import torch

        from metasum.networks.channels import channel_groups
        from metasum.networks.same_function import same_function
        from metasum.weights.copies import copy_of

        every = channel_groups(to.network, _few_images(to), forward=to.forward)
        groups = [group for group in every if any(axis.name not in to.kept for axis in group.positions)]
        generator = torch.Generator().manual_seed(self.seed)
        orders = match(to.parameters, endpoint.parameters, groups, generator=generator)
        moved = copy_of(endpoint.network)
        permute_network(moved, groups, orders)
        same_function(endpoint.network, moved, _few_images(endpoint), forward=endpoint.forward)
        return moved


def _few_images(endpoint: Endpoint) -> Any:
    """The network's own images, or noise in their shape: what computes the same does so on any."""
    from metasum.networks.channels import noise_for

    few = endpoint.few_images(IMAGES)
    return noise_for(endpoint.network, IMAGES) if few is None else few


def match(
    reference: Parameters, other: Parameters, groups: Sequence[ChannelGroup], *, generator: torch.Generator
) -> list[Tensor]:
    """The permutation of each group of channels of `other` that brings it closest to `reference`.

    Returns:
        For each group int64 `[channels]`: position i takes the channel with that number. Σ⟨W_ref, P W_other Pᵀ⟩ is at
        a maximum in each permutation by itself.
    """
    import torch
    from scipy.optimize import linear_sum_assignment

    orders = [torch.arange(group.size) for group in groups]
    for _ in range(SWEEPS):
        gained = False
        for index in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[index]
            gain = torch.zeros(group.size, group.size, dtype=torch.float64)
            for axis in (axis for axis in group.positions if axis.name in reference):
                others = [g if g is not group else _without(g, axis) for g in groups]
                moved = permuted({axis.name: other[axis.name]}, others, orders)
                rows, columns = (_rows(p[axis.name].detach(), axis, group) for p in (reference, moved))
                gain += (rows @ columns.T).double().cpu()
            order = torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
            changed = [*orders[:index], order, *orders[index + 1 :]]
            names = {axis.name for axis in group.positions}
            before, after = (_likeness(reference, other, names, groups, which) for which in (orders, changed))
            if after > before + 1e-9 * abs(before):
                orders, gained = changed, True
        if not gained:
            break
    return orders


def _likeness(
    reference: Parameters,
    other: Parameters,
    names: Collection[str],
    groups: Sequence[ChannelGroup],
    orders: Sequence[Tensor],
) -> float:
    """Σ⟨W_ref, P W_other Pᵀ⟩ over the named parameters."""
    own = {name: tensor for name, tensor in other.items() if name in names}
    moved = permuted(own, groups, orders)
    return sum(float((reference[name].detach() * tensor.detach()).double().sum()) for name, tensor in moved.items())


def permuted(
    tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup], orders: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Parameters (or a whole state, buffers included) with every group's channels in the given order: a new mapping."""
    import torch

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
    network.load_state_dict(permuted(network.state_dict(), groups, orders))


def _without(group: ChannelGroup, axis: Axis) -> ChannelGroup:
    return type(group)({own: positions for own, positions in group.positions.items() if own != axis})


def _rows(tensor: Tensor, axis: Axis, group: ChannelGroup) -> Tensor:
    """One row for each channel of the group: `[channels, everything else]`."""
    own = tensor.index_select(axis.dimension, group.positions[axis].flatten().to(tensor.device))
    return own.movedim(axis.dimension, 0).reshape(group.size, -1)
