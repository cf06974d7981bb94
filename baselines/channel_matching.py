"""What all methods have in common that permute one network's channels to match another's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metasum.errors import ArchitectureError
from metasum.merging.endpoints import AligningMethod, Endpoint

if TYPE_CHECKING:
    from torch import nn

    from metasum.networks.channels import ChannelGroup

IMAGES = 8  # that a permuted network is looked at on


class ChannelMatching(AligningMethod):
    """A method that finds an order for each group of channels that move together."""

    needs_networks = True
    two_starts = True

    @abstractmethod
    def put_in_order(self, moved: nn.Module, endpoint: Endpoint, to: Endpoint, groups: Sequence[ChannelGroup]) -> None:
        """Permutes the channels of `moved`, a copy of the endpoint's network, in place, to match the other's."""

    def align(self, endpoint: Endpoint, to: Endpoint) -> nn.Module:
        from metasum.networks.channels import channel_groups
        from metasum.networks.same_function import same_function
        from metasum.weights.copies import copy_of

        every = channel_groups(to.network, _few_images(to), forward=to.forward)
        groups = [group for group in every if any(axis.name not in to.kept for axis in group.positions)]
        moved = copy_of(endpoint.network)
        self.put_in_order(moved, endpoint, to, groups)
        try:
            same_function(endpoint.network, moved, _few_images(endpoint), forward=endpoint.forward)
        except ArchitectureError as error:
            raise ArchitectureError(f"with its channels in another order a network is not the same: {error}") from error
        return moved


def _few_images(endpoint: Endpoint) -> Any:
    """The network's own images, or noise in their shape: what computes the same does so on any."""
    from metasum.networks.channels import noise_for

    few = endpoint.few_images(IMAGES)
    return noise_for(endpoint.network, IMAGES) if few is None else few
