"""What networks compute on images, channel by channel, where linear layers and convolutions read it.

That is behind batch norm and activation function, as the input of the next layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from metasum.errors import DivergenceError
from metasum.weights.listening import listening

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.merging.endpoints import Endpoint
    from metasum.networks.channels import Axis, ChannelGroup

LEAST = 1e-12  # share of a channel's mean square that is no rounding error of its variance


class Reader(NamedTuple):
    """A layer whose input holds a group's channels."""

    layer: str
    group: int
    axis: Axis
    dimension: int
    """Of the input."""


def readers(network: nn.Module, groups: Sequence[ChannelGroup]) -> list[Reader]:
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
            found += [Reader(name, number, axis, 1 if convolution else -1) for number in own]
    return found


def features(
    endpoints: Sequence[Endpoint], reading: Sequence[Reader], groups: Sequence[ChannelGroup], chunks: Iterable[Any]
) -> Iterator[tuple[Reader, list[Tensor]]]:
    """What several networks compute on the same images, where their layers read it.

    Args:
        endpoints: networks in eval mode with the same `groups` of channels.
        reading: layers that all of them have.
        groups: of which each reader has one.
        chunks: batches as `Endpoint.images` gives them, which all networks are run on, once.

    Yields:
        For each chunk, and each time that a layer is called, the reader and for every network a row for each image and
        pixel, `[rows, channels]`. No gradient is recorded.
    """
    import torch

    for chunk in chunks:
        with torch.no_grad(), ExitStack() as hooks:
            found = [hooks.enter_context(_inputs(end.network, reading)) for end in endpoints]
            for end in endpoints:
                end.logits(chunk)
        for reader in reading:
            for calls in zip(*(own[reader.layer] for own in found), strict=True):
                yield reader, [_rows(call, reader, groups) for call in calls]


@contextmanager
def _inputs(network: nn.Module, readers: Sequence[Reader]) -> Iterator[dict[str, list[Tensor]]]:
    """Within the block what layers are given, by name, each time that they are called."""
    found = defaultdict[str, list["Tensor"]](list)

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[name].append(inputs[0].detach().clone())  # the network may go on to change it in place

    with listening({reader.layer: network.get_submodule(reader.layer) for reader in readers}, given=keep):
        yield found


def _rows(inputs: Tensor, reader: Reader, groups: Sequence[ChannelGroup]) -> Tensor:
    """One row for each image and pixel: `[rows, channels]`."""
    positions = groups[reader.group].positions[reader.axis]
    own = inputs.movedim(reader.dimension, 0)[positions.to(inputs.device)]  # [channels, pixels of a flatten, …]
    return own.reshape(len(positions), -1).T


class Moments:
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
            raise DivergenceError("matching by images: what a network computes is NaN or infinite.")
        one, two, squares, others, products = means
        spread = [(square - mean.square()).clamp(min=0) for square, mean in ((squares, one), (others, two))]
        spread = [own.where(own > LEAST * square, 0) for own, square in zip(spread, (squares, others), strict=True)]
        scale = (spread[0][:, None] * spread[1][None]).sqrt()
        return ((products - one[:, None] * two[None]) / scale).where(scale > 0, 0).cpu()
