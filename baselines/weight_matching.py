"""Weight matching (Ainsworth et al. 2023, Git Re-Basin, arXiv:2209.04836, algorithm 1): align channels, then average.

A hidden layer's channels may stand in any order without changing the function. Every network is brought into the
order of the first that makes their weights most alike, by one assignment problem for each set of channels that must
move together, again and again in random order until nothing is gained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from metasum.merging.method import Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from metasum.merging.memory import Endpoint
    from metasum.networks.channels import Axis
    from metasum.types import Parameters

SWEEPS = 100  # more than any network here has needed


class WeightMatching(Method):
    """The average of all networks, each permuted to match the first; the seed is of the order of groups visited."""

    name = "weight-matching"
    summary = "Permutes the second network's channels to match the first's."
    paper = "Ainsworth et al. 2023, arXiv:2209.04836"
    needs_networks = True
    random = True
    two_starts = True

    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        """Raises ArchitectureError where it cannot tell which channels may be permuted."""
        import torch

        from metasum.networks.channels import channel_groups
        from metasum.weights.composition import average_parameters

        first, *others = endpoints
        groups = channel_groups(first.network)
        generator = torch.Generator().manual_seed(self.seed)
        aligned = [
            permuted(other.parameters, groups, match(first.parameters, other.parameters, groups, generator=generator))
            for other in others
        ]
        return average_parameters([first.parameters, *aligned])


def match(
    reference: Parameters, other: Parameters, groups: Sequence[Sequence[Axis]], *, generator: torch.Generator
) -> list[Tensor]:
    """The permutation of each group of channels of `other` that brings it closest to `reference`.

    Returns:
        For each group int64 `[channels]`: position i takes the channel with that number. Σ⟨W_ref, P W_other Pᵀ⟩ is at
        a maximum in each permutation by itself.
    """
    import torch
    from scipy.optimize import linear_sum_assignment

    sizes = [_channels(reference, group) for group in groups]
    orders = [torch.arange(size) for size in sizes]
    for _ in range(SWEEPS):
        gained = False
        for index in torch.randperm(len(groups), generator=generator).tolist():
            gain = torch.zeros(sizes[index], sizes[index], dtype=torch.float64)
            for axis in (axis for axis in groups[index] if axis.name in reference):
                moved = permuted({axis.name: other[axis.name]}, groups, orders, but=axis)
                rows, columns = (_rows(p[axis.name].detach(), axis, sizes[index]) for p in (reference, moved))
                gain += (rows @ columns.T).double().cpu()
            order = torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
            changed = [*orders[:index], order, *orders[index + 1 :]]
            names = {axis.name for axis in groups[index]}
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
    groups: Sequence[Sequence[Axis]],
    orders: Sequence[Tensor],
) -> float:
    """Σ⟨W_ref, P W_other Pᵀ⟩ over the named parameters."""
    own = {name: tensor for name, tensor in other.items() if name in names}
    moved = permuted(own, groups, orders)
    return sum(float((reference[name].detach() * tensor.detach()).double().sum()) for name, tensor in moved.items())


def permuted(
    tensors: Mapping[str, Tensor],
    groups: Sequence[Sequence[Axis]],
    orders: Sequence[Tensor],
    *,
    but: Axis | None = None,
) -> dict[str, Tensor]:
    """Parameters (or a whole state, buffers included) with every group's channels in the given order: a new mapping.

    The axis `but` stays as it is.
    """
    import torch

    moved = dict(tensors)
    for group, order in zip(groups, orders, strict=True):
        for axis in group:
            if axis.name in moved and axis != but:
                tensor = moved[axis.name]
                block = tensor.shape[axis.dimension] // len(order)
                index = (order[:, None] * block + torch.arange(block)).flatten().to(tensor.device)
                moved[axis.name] = tensor.index_select(axis.dimension, index)
    return moved


def permute_network(network: nn.Module, groups: Sequence[Sequence[Axis]], orders: Sequence[Tensor]) -> None:
    """Puts every group's channels in the given order, batch-norm statistics included, in place: the same function."""
    network.load_state_dict(permuted(network.state_dict(), groups, orders))


def _channels(parameters: Parameters, group: Sequence[Axis]) -> int:
    """How many channels the group has: the least size of its axes, since a flattened axis holds several a channel."""
    return min(parameters[axis.name].shape[axis.dimension] for axis in group if axis.name in parameters)


def _rows(tensor: Tensor, axis: Axis, channels: int) -> Tensor:
    """One row for each channel: `[channels, everything else]`; of a flattened axis a channel owns a block."""
    return tensor.movedim(axis.dimension, 0).reshape(channels, -1)
