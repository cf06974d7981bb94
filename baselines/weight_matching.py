"""Weight matching (Ainsworth et al. 2023, Git Re-Basin, arXiv:2209.04836, algorithm 1): align channels, then average.

A hidden layer's channels may stand in any order without changing the function. Every network is brought into the
order of the first that makes their weights most alike, by one assignment problem for each set of channels that must
move together, again and again in random order until nothing is gained. That the permuted network still computes what
it did is looked at on its own images before it is used.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Sequence
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
        from metasum.networks.permuting import permute_network
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
        a maximum in each permutation by itself; blocks are matched by what is in them in its best order.
    """
    import torch

    matching = _Matching(reference, other, groups)
    for _ in range(SWEEPS):
        gained = [matching.improve(index) for index in torch.randperm(len(groups), generator=generator).tolist()]
        if not any(gained):
            break
    return matching.orders


class _Matching:
    """The best orders so far."""

    def __init__(self, reference: Parameters, other: Parameters, groups: Sequence[ChannelGroup]) -> None:
        import torch

        self._reference, self._other, self._groups = reference, other, groups
        self.orders = [torch.arange(group.size) for group in groups]
        self._touching = defaultdict[str, list[int]](list)  # by tensor
        for index, group in enumerate(groups):
            for name in dict.fromkeys(axis.name for axis in group.positions):
                self._touching[name].append(index)
        self._inner = {
            index: [
                inner for inner in self._beside(group) if not groups[inner].of_blocks and group.overlaps(groups[inner])
            ]
            for index, group in enumerate(groups)
            if group.of_blocks
        }

    def _beside(self, group: ChannelGroup) -> list[int]:
        return sorted({index for axis in group.positions for index in self._touching[axis.name]})

    def improve(self, index: int) -> bool:
        """Puts one group in its best order, of blocks with all that is in them; whether something is gained."""
        import torch

        inner = self._inner.get(index, [])
        if self._groups[index].size == 1:
            return False
        changed = list(self.orders)
        for within in inner:
            changed[within] = torch.arange(self._groups[within].size)
        changed[index] = self._best(index, changed)
        for within in inner:
            changed[within] = self._best(within, changed)
        names = {axis.name for which in (index, *inner) for axis in self._groups[which].positions}
        before, after = self._likeness(names, self.orders), self._likeness(names, changed)
        if after <= before + 1e-9 * abs(before):
            return False
        self.orders = changed
        return True

    def _best(self, index: int, orders: Sequence[Tensor]) -> Tensor:
        """The order of one group that brings it closest, the others being as they are."""
        import torch
        from scipy.optimize import linear_sum_assignment

        group = self._groups[index]
        gain = torch.zeros(group.size, group.size, dtype=torch.float64)
        for axis in (axis for axis in group.positions if axis.name in self._reference):
            moved = self._moved(axis.name, orders, without=(index, axis))
            ours, theirs = (_rows(tensor, axis, group) for tensor in (self._reference[axis.name].detach(), moved))
            if any(axis in self._groups[inner].positions for inner in self._inner.get(index, ())):
                gain += _likeness_of_blocks(ours, theirs)
            else:
                gain += (ours.flatten(1) @ theirs.flatten(1).T).double().cpu()
        return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])

    def _moved(self, name: str, orders: Sequence[Tensor], without: tuple[int, Axis] | None = None) -> Tensor:
        from metasum.networks.permuting import permuted

        groups = [self._groups[index] for index in self._touching[name]]
        own = [orders[index] for index in self._touching[name]]
        if without is not None and without[0] in self._touching[name]:
            place = self._touching[name].index(without[0])
            groups[place] = _without(groups[place], without[1])
        return permuted({name: self._other[name].detach()}, groups, own)[name]

    def _likeness(self, names: Collection[str], orders: Sequence[Tensor]) -> float:
        """Σ⟨W_ref, P W_other Pᵀ⟩ over the named parameters."""
        known = [name for name in sorted(names) if name in self._other and name in self._reference]
        return sum(float((self._reference[name].detach() * self._moved(name, orders)).double().sum()) for name in known)


def _likeness_of_blocks(ours: Tensor, theirs: Tensor) -> Tensor:
    """How alike two blocks are at best, whatever the order of the channels in them: `[blocks, blocks]`, float64."""
    import torch
    from scipy.optimize import linear_sum_assignment

    products = torch.einsum("anr,bmr->abnm", ours, theirs).double().cpu()
    gain = torch.zeros(products.shape[:2], dtype=torch.float64)
    for one, row in enumerate(products.numpy()):
        for two, product in enumerate(row):
            gain[one, two] = float(product[linear_sum_assignment(product, maximize=True)].sum())
    return gain


def _without(group: ChannelGroup, axis: Axis) -> ChannelGroup:
    others = {own: positions for own, positions in group.positions.items() if own != axis}
    return dataclasses.replace(group, positions=others)


def _rows(tensor: Tensor, axis: Axis, group: ChannelGroup) -> Tensor:
    """One matrix for each channel of the group: `[channels, n, everything else]`."""
    positions = group.positions[axis]
    own = tensor.index_select(axis.dimension, positions.flatten().to(tensor.device))
    return own.movedim(axis.dimension, 0).reshape(*positions.shape, -1)
