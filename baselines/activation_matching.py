"""Activation matching (Li et al. 2015, arXiv:1511.07543; as in REPAIR, Jordan et al. 2022, arXiv:2211.08403).

Networks trained apart learn many of the same features in another order. Each group of the second network's channels is
put in the order in which they are most correlated with the first's on images, and then weights are averaged. The
averaged units vary less than those of either network: statistics of batch norms are to be measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from metasum.baselines.channel_matching import ChannelMatching
from metasum.baselines.features import Moments, features, readers
from metasum.merging.endpoints import Endpoint
from metasum.merging.method import ImagesConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.networks.channels import ChannelGroup

CHUNK = 32  # inputs that are run at once


class ActivationMatching(ChannelMatching):
    """The average of all networks, the channels of each in the order in which they answer to images as the first's do.

    Of more than two, each is matched to the first by itself. Both see the images of both. Attention heads, parts of
    grouped convolutions and other channels that no convolution or linear layer reads in plain sight are matched by
    their weights, when the others are in place.
    """

    name = "activation-matching"
    summary = "Permutes the other networks' channels to answer to images as the first's."
    paper = "Li et al. 2015, arXiv:1511.07543"
    Config = ImagesConfig
    needs_images = True

    def put_in_order(self, moved: nn.Module, endpoint: Endpoint, to: Endpoint, groups: Sequence[ChannelGroup]) -> None:
        """See `ChannelMatching`; raises DivergenceError where what the networks compute is NaN or infinite."""
        import torch

        from metasum.baselines.assignment import best_orders
        from metasum.baselines.weight_matching import match
        from metasum.networks.permuting import permute_network
        from metasum.weights.batches import limited

        count = self.config.merging_images
        chunks = (chunk for end in (to, endpoint) for chunk in limited(end.images, count, size=CHUNK))
        found = correlations(to, endpoint, groups, chunks)
        known = iter(best_orders([own for own in found if own is not None]))
        of_groups = zip(found, groups, strict=True)
        orders = [torch.arange(group.size) if own is None else next(known) for own, group in of_groups]
        permute_network(moved, groups, orders)
        rest = [group for group, own in zip(groups, found, strict=True) if own is None]
        if rest:
            others = endpoint._replace(network=moved).parameters
            orders = match(to.parameters, others, rest, generator=torch.Generator().manual_seed(0))
            permute_network(moved, rest, orders)


def correlations(
    first: Endpoint, second: Endpoint, groups: Sequence[ChannelGroup], chunks: Iterable[Any]
) -> list[Tensor | None]:
    """How alike two networks' channels are, over images and pixels, where linear layers and convolutions read them.

    Args:
        first: its network in eval mode, like the second's.
        second: its network of the same architecture.
        groups: of both networks' channels.
        chunks: batches as `Endpoint.images` gives them, which both are run on, once.

    Returns:
        For each group Pearson's correlations `[channels of the first, of the second]`, float64 on the CPU, summed over
        the layers that read it; 0 where a channel is constant. None of a group that none reads in plain sight.

    Raises:
        DivergenceError: what the networks compute is NaN or infinite.
    """
    reading = readers(first.network, groups)
    moments = {reader: Moments() for reader in reading}
    for reader, (ours, theirs) in features([first, second], reading, groups, chunks):
        moments[reader].add(ours, theirs)
    found: list[Tensor | None] = [None] * len(groups)
    for reader, own in moments.items():
        if own.count:
            before = found[reader.group]
            found[reader.group] = own.correlation() if before is None else before + own.correlation()
    return found
