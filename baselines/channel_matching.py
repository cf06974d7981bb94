"""What all methods have in common that permute networks' channels to match each other's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metasum.errors import ArchitectureError
from metasum.merging.endpoints import AligningMethod, Endpoint

if TYPE_CHECKING:
    from torch import nn

    from metasum.networks.channels import ChannelGroup
    from metasum.networks.permuting import Entries

IMAGES = 8  # that a permuted network is looked at on


class ChannelMatching(AligningMethod):
    """A method that finds an order for each group of channels that move together.

    Each network by itself is brought into the order of the first, however many there are.
    """

    needs_networks = True
    any_start = True
    two_starts = True

    @abstractmethod
    def put_in_order(self, moved: nn.Module, endpoint: Endpoint, to: Endpoint, groups: Sequence[ChannelGroup]) -> None:
        """Permutes the channels of `moved`, a copy of the endpoint's network, in place, to match the other's."""

    def align(self, endpoint: Endpoint, to: Endpoint) -> nn.Module:
        from metasum.weights.copies import copy_of

        moved = copy_of(endpoint.network)
        self.put_in_order(moved, endpoint, to, groups_of(to))
        _check_function(endpoint, moved)
        return moved


class JointMatching(AligningMethod):
    """A method that finds one common order for all networks, none of which is the measure of the others.

    The common order is no network's own. Since the same permutation of all of them changes no average but for the
    order of its channels, the result is written in the first network's order: that one stays as it is.
    """

    needs_networks = True
    any_start = True
    two_starts = True

    @abstractmethod
    def common_order(self, endpoints: Sequence[Endpoint], groups: Sequence[ChannelGroup]) -> list[Entries]:
        """For each network the order of its axes in which all are most alike, of parameters and buffers."""

    def align(self, endpoint: Endpoint, to: Endpoint) -> nn.Module:
        return self.prepared([to, endpoint])[1].network

    def prepared(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        from metasum.networks.permuting import one_after_another, put_in_order, undoing
        from metasum.weights.copies import copy_of

        first, *others = endpoints
        to_common, *orders = self.common_order(endpoints, groups_of(first))
        found, back = [first], undoing(to_common)
        for endpoint, entries in zip(others, orders, strict=True):
            moved = copy_of(endpoint.network)
            put_in_order(moved, one_after_another(entries, back))
            _check_function(endpoint, moved)
            found.append(endpoint._replace(network=moved))
        return found


def groups_of(to: Endpoint) -> list[ChannelGroup]:
    """Those with an axis in what is merged; raises ArchitectureError where channels cannot be followed."""
    from metasum.networks.channels import channel_groups

    every = channel_groups(to.network, _few_images(to), forward=to.forward)
    return [group for group in every if any(axis.name not in to.kept for axis in group.positions)]


def _check_function(endpoint: Endpoint, moved: nn.Module) -> None:
    """Raises ArchitectureError where the permuted copy computes something else."""
    from metasum.networks.same_function import same_function

    try:
        same_function(endpoint.network, moved, _few_images(endpoint), forward=endpoint.forward)
    except ArchitectureError as error:
        raise ArchitectureError(f"with its channels in another order a network is not the same: {error}") from error


def _few_images(endpoint: Endpoint) -> Any:
    """The network's own images, or noise in their shape: what computes the same does so on any."""
    from metasum.networks.channels import noise_for

    few = endpoint.few_images(IMAGES)
    return noise_for(endpoint.network, IMAGES) if few is None else few
