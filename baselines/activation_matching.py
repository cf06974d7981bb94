"""Activation matching (Li et al. 2015, arXiv:1511.07543; as in REPAIR, Jordan et al. 2022, arXiv:2211.08403).

Networks trained apart learn many of the same features in another order. Each group of the second network's channels is
put in the order in which they are most correlated with the first's on images, and then weights are averaged. The
averaged units vary less than those of either network: statistics of batch norms are to be measured again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from metasum.baselines.channel_matching import ChannelMatching
from metasum.errors import DivergenceError
from metasum.merging.endpoints import Endpoint
from metasum.merging.method import ImagesConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.networks.channels import Axis, ChannelGroup

CHUNK = 32  # inputs that are run at once
LEAST = 1e-12  # share of a channel's mean square that is no rounding error of its variance


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
    import torch

    readers = _readers(first.network, groups)
    moments = {reader: _Moments() for reader in readers}
    with torch.no_grad():
        for chunk in chunks:
            with _inputs(first.network, readers) as ours, _inputs(second.network, readers) as theirs:
                first.logits(chunk)
                second.logits(chunk)
            for reader in readers:
                for one, two in zip(ours[reader.layer], theirs[reader.layer], strict=True):
                    moments[reader].add(_channels(one, reader, groups), _channels(two, reader, groups))
    found: list[Tensor | None] = [None] * len(groups)
    for reader, own in moments.items():
        if own.count:
            before = found[reader.group]
            found[reader.group] = own.correlation() if before is None else before + own.correlation()
    return found


class _Reader(NamedTuple):
    """A layer whose input holds a group's channels."""

    layer: str
    group: int
    axis: Axis
    dimension: int
    """Of the input."""


def _readers(network: nn.Module, groups: Sequence[ChannelGroup]) -> list[_Reader]:
    """Layers that read groups which have nothing to do with blocks."""
    from torch import nn

    from metasum.networks.channels import Axis

    blocks = [group for group in groups if group.of_blocks]
    free = [
        (number, group)
        for number, group in enumerate(groups)
        if not group.of_blocks and group.size > 1 and not any(map(group.overlaps, blocks))
    ]
    found = []
    for name, module in network.named_modules():
        convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1
        if convolution or isinstance(module, nn.Linear):
            axis = Axis(f"{name}.weight", 1)
            own = [number for number, group in free if axis in group.positions]
            found += [_Reader(name, number, axis, 1 if convolution else -1) for number in own]
    return found


@contextmanager
def _inputs(network: nn.Module, readers: Sequence[_Reader]) -> Iterator[dict[str, list[Tensor]]]:
    """Within the block what layers are given, by name, each time that they are called."""
    found = defaultdict[str, list["Tensor"]](list)

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[name].append(inputs[0].detach())

    names = dict.fromkeys(reader.layer for reader in readers)
    handles = [network.get_submodule(name).register_forward_pre_hook(partial(keep, name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _channels(inputs: Tensor, reader: _Reader, groups: Sequence[ChannelGroup]) -> Tensor:
    """One row for each image and pixel: `[rows, channels]`."""
    positions = groups[reader.group].positions[reader.axis]
    own = inputs.movedim(reader.dimension, 0)[positions.to(inputs.device)]  # [channels, pixels of a flatten, …]
    return own.reshape(len(positions), -1).T


class _Moments:
    """Sums over rows that came one chunk after the other, float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[Tensor] = []

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Rows `[n, channels]` of both networks."""
        a, b = ours.double(), theirs.double()
        new = [a.sum(0), b.sum(0), a.square().sum(0), b.square().sum(0), a.T @ b]
        self._sums = [old + own for old, own in zip(self._sums, new, strict=True)] if self.count else new
        self.count += len(a)

    def correlation(self) -> Tensor:
        """`[channels, channels]`; raises DivergenceError where a sum is NaN or infinite."""
        means = [own / self.count for own in self._sums]
        if not all(bool(own.isfinite().all()) for own in means):
            raise DivergenceError("activation matching: what a network computes is NaN or infinite.")
        one, two, squares, others, products = means
        spread = [(square - mean.square()).clamp(min=0) for square, mean in ((squares, one), (others, two))]
        spread = [own.where(own > LEAST * square, 0) for own, square in zip(spread, (squares, others), strict=True)]
        scale = (spread[0][:, None] * spread[1][None]).sqrt()
        return ((products - one[:, None] * two[None]) / scale).where(scale > 0, 0).cpu()
