"""Which axes of a network's tensors hold the same channels, and so can only be permuted together.

Found by running the network on one image while every tensor carries, element by element, the number of the channel
it belongs to (`channel_rules.py` says what PyTorch's functions do to these). Wherever two channels meet in one element
(an addition, a layer that is called twice, tied weights), they are one from then on.

`torch_pruning.DependencyGraph` (1.6.1) was tried: exact for plain and residual networks, DenseNet and MobileNet, but
without a word wrong for group norm, tied weights and a linear layer on an image, and stopped by grouped convolutions.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metasum.errors import ArchitectureError, reason
from metasum.networks.channel_numbers import Numbering
from metasum.networks.channel_rules import Following
from metasum.weights.batches import Forward, answer, cut
from metasum.weights.modes import in_eval_mode

SIZES = (32, 8, 16, 28, 64, 96, 128, 224)  # of images, in the order in which they are tried


class Axis(NamedTuple):
    """One dimension of one tensor of a network's state."""

    name: str
    dimension: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can stand in any order, as long as all axes that hold them are put in the same one."""

    positions: dict[Axis, Tensor]
    """For each axis int64 `[channels, n]`: where along the axis each channel's entries are. n is 1 in most axes, and
    the number of pixels behind a flatten. An axis may hold channels of other groups, too (behind a concatenation)."""

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(next(iter(self.positions.values())))

    def fills(self, axis: Axis, size: int) -> bool:
        """Whether its channels are all that an axis of that size holds, in their order."""
        return torch.equal(self.positions[axis].flatten(), torch.arange(size))


def channel_groups(network: nn.Module, images: Any = None, *, forward: Forward | None = None) -> list[ChannelGroup]:
    """The groups of hidden channels, in the order in which they are computed.

    Channels of the images and logits stay where they are and are in no group; so are those that a layer reads in an
    order of its own (the input of a grouped convolution).

    Args:
        network: is run once, in eval mode, and left as it was.
        images: `[N, C, H, W]`, or whatever it is called with (see `metasum.weights.batches`), of which the first is
            read [default: zeros, of the first size that the network takes].
        forward: from the network and such a batch to logits, where it is not called in the usual way.

    Raises:
        ArchitectureError: the network does not take such images, or does something to channels that is not known
            here; the layer and the function are named.
    """
    names = defaultdict[int, list[str]](list)  # a tied tensor has several
    for tensors in (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)):
        for name, tensor in tensors:
            names[id(tensor)].append(name)
    numbering = Numbering()
    with torch.no_grad(), in_eval_mode(network):
        image = example_image(network) if images is None else cut(images, 0, 1)
        following = Following(numbering, names, image)
        with following.naming_layers(network):
            try:
                with following:
                    outputs = answer(network, image, forward)
            except ArchitectureError:
                raise
            except Exception as error:  # whatever the network's own code says to this image
                raise ArchitectureError(
                    f"the channels of this network cannot be followed ({reason(error.__cause__ or error)})."
                ) from error
        following.fix(outputs)
    return _groups(numbering, names)


def _groups(numbering: Numbering, names: dict[int, list[str]]) -> list[ChannelGroup]:
    """Channels are interchangeable where the same axes hold them, equally often."""
    held = defaultdict[int, list[tuple[int, int]]](list)  # by channel: (number of an axis or set, how often)
    places = list[dict[int, list[int]]]()  # by axis: positions of each channel
    axes = list(numbering.axes)
    for number, channels in enumerate([*numbering.axes.values(), *numbering.sets]):
        where = defaultdict[int, list[int]](list)
        for position, channel in enumerate(numbering.roots(channels).tolist()):
            where[channel].append(position)
        places.append(where)
        for channel, positions in where.items():
            held[channel].append((number, len(positions)))
    alike = defaultdict[tuple[tuple[int, int], ...], list[int]](list)
    for channel in sorted(held.keys() - {0}):
        alike[tuple(held[channel])].append(channel)
    groups = []
    for signature, channels_alike in alike.items():
        positions_of = {
            Axis(name, dimension): torch.tensor([places[number][channel] for channel in channels_alike])
            for number, _ in signature
            if number < len(axes)
            for tensor, dimension in (axes[number],)
            for name in names[tensor]
        }
        if positions_of:
            groups.append(ChannelGroup(dict(sorted(positions_of.items()))))
    return groups


def noise_for(network: nn.Module, count: int = 2) -> Tensor:
    """Images of noise `[count, C, H, W]` in the shape of `example_image`, always the same."""
    example = example_image(network)
    return torch.randn(count, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)


def example_image(network: nn.Module) -> Tensor:
    """One image of zeros `[1, C, H, W]`, of the first of `SIZES` that the network, in eval mode, takes.

    A network whose first layer is a linear one is shown a vector `[1, inputs]` before any image.

    Raises:
        ArchitectureError: it takes none of them.
    """
    first = next((tensor for tensor in network.parameters() if tensor.ndim >= 2), None)
    if first is None:
        raise ArchitectureError("the channels of a network without weights cannot be followed.")
    channels = dict.fromkeys((first.shape[1] if first.ndim == 4 else 1, 1, 3))
    shapes = [(first.shape[1],)] if first.ndim == 2 else []
    for shape in (*shapes, *((own, size, size) for own in channels for size in SIZES)):
        image = first.new_zeros(1, *shape)
        try:
            with torch.no_grad():
                network(image)
        except (RuntimeError, ValueError, TypeError, AssertionError):  # of another size
            continue
        return image
    raise ArchitectureError("the channels of this network cannot be followed: give images that it takes.")
