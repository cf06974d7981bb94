"""Which axes of a network's tensors hold the same channels, and so can only be permuted together.

Found by running the network on one image while every tensor carries, element by element, the number of the channel
it belongs to (`following/rules.py` says what PyTorch's functions do to these). Wherever two channels meet in one
element (an addition, a layer that is called twice, tied weights), they are one from then on.

`torch_pruning.DependencyGraph` (1.6.1) was tried: exact for plain and residual networks, DenseNet and MobileNet, but
without a word wrong for group norm, tied weights and a linear layer on an image, and stopped by grouped convolutions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from metasum.errors import ArchitectureError, UsageError, reason
from metasum.networks.following.mode import Following
from metasum.networks.following.notes import Notes, tensors_in
from metasum.networks.following.numbers import Numbering
from metasum.networks.following.symmetries import Exchange, Symmetries
from metasum.weights.batches import Forward, cut
from metasum.weights.calling import run
from metasum.weights.modes import in_eval_mode

SIZES = (32, 8, 16, 28, 64, 96, 128, 224, 299)  # of images, in the order in which they are tried


class Axis(NamedTuple):
    """One dimension of one tensor of a network's state."""

    name: str
    dimension: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can stand in any order, as long as all axes that hold them are put in the same one.

    A channel can be a block of others: an attention head, a part of a grouped convolution. Such groups come before
    those of the channels in them, and orders are applied in that sequence.
    """

    positions: dict[Axis, Tensor]
    """For each axis int64 `[channels, n]`: where along the axis each channel's entries are. n is 1 in most axes, and
    the number of pixels behind a flatten. An axis may hold channels of other groups, too (behind a concatenation)."""
    of_blocks: bool = False
    """Whether each channel is a block of others, which other groups may put in another order within it."""
    tied: bool = False
    """Whether something is computed of several channels together, whatever their order: a norm's mean, an attention."""

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(next(iter(self.positions.values())))

    def fills(self, axis: Axis, size: int) -> bool:
        """Whether its channels are all that an axis of that size holds, in their order."""
        return torch.equal(self.positions[axis].flatten(), torch.arange(size))

    def overlaps(self, other: ChannelGroup) -> bool:
        """Whether an entry belongs to a channel of both: one group is of blocks of the other's channels."""
        return any(
            bool(torch.isin(positions, other.positions[axis]).any())
            for axis, positions in self.positions.items()
            if axis in other.positions
        )


def channel_groups(network: nn.Module, images: Any = None, *, forward: Forward | None = None) -> list[ChannelGroup]:
    """The groups of hidden channels, in the order in which they are computed, those of blocks first.

    Channels of the images and logits stay where they are and are in no group; so are those for which nothing else can
    be shown.

    Args:
        network: is run once, in eval mode, and left as it was. Where parameters are left unused (an auxiliary
            classifier), it is run again with the modules that hold them saying that they are training.
        images: `[N, C, H, W]`, of which the first is read, or whatever the network is called with: several inputs in a
            tuple, or by name in a dictionary [default: zeros, of the first size that the network takes].
        forward: from the network and these to what it returns, where it is not called in the usual way.

    Raises:
        ArchitectureError: the network does not take such images, or does something to channels that is not known
            here; the layer and the function are named.
    """
    numbering = Numbering()
    with torch.no_grad(), in_eval_mode(network):
        inputs = example_image(network) if images is None else cut(images, 0, 1)
        names, constants = _tensors_of(network)
        notes = Notes(numbering, names, constants)
        for tensor in tensors_in(inputs):
            notes.note(tensor, torch.zeros([1] * tensor.ndim, dtype=torch.long), "the images")
        _follow(network, inputs, notes, forward)
        if idle := _modules_of_unused(network, numbering):
            for module in idle:
                module.training = True
            _follow(network, inputs, notes, forward, "where it is training, ")
    numbering.settle()
    found = Symmetries(numbering)
    blocks = [_group(exchange, names, of_blocks=True) for exchange in found.blocks()]
    singles = [_group(exchange, names) for exchange in found.singles()]
    inside = {
        (axis, position)
        for group in blocks
        for axis, own in group.positions.items()
        for position in own.flatten().tolist()
    }
    return [*blocks, *(group for group in singles if group.size > 1 or not _is_inside(group, inside))]


def _is_inside(group: ChannelGroup, inside: set[tuple[Axis, int]]) -> bool:
    return all((axis, int(position)) in inside for axis, own in group.positions.items() for position in own.flatten())


def _group(exchange: Exchange, names: Mapping[int, list[str]], *, of_blocks: bool = False) -> ChannelGroup:
    positions = {
        Axis(name, dimension): torch.tensor([own[tensor, dimension] for own in exchange.positions])
        for tensor, dimension in exchange.positions[0]
        for name in names[tensor]
    }
    return ChannelGroup(dict(sorted(positions.items())), of_blocks, exchange.tied)


def _follow(network: nn.Module, inputs: Any, notes: Notes, forward: Forward | None, when: str = "") -> None:
    """Runs the network once; what it returns stays where it is."""
    following = Following(notes)
    with following.naming_layers(network):
        try:
            with following:
                outputs = run(network, inputs, forward)
        except ArchitectureError:
            raise
        except UsageError as error:
            if notes.layers and notes.layers[-1][0]:
                when += f"in {notes.layers[-1][0]!r}: "
            raise ArchitectureError(
                f"the channels of this network cannot be followed ({when}{reason(error.__cause__ or error)}); give "
                "images that it takes."
            ) from error
    answers = _answers(outputs)
    if not answers:
        raise ArchitectureError(
            f"a network that returns a {type(outputs).__name__} without tensors cannot be followed."
        )
    for answer in answers:
        notes.numbering.fix(notes.numbers(answer, "the output"))


def _answers(outputs: Any, depth: int = 4) -> list[Tensor]:
    """All tensors that a network returns, in whatever object."""
    found = list[Tensor]()
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif depth and isinstance(leaf, Mapping):  # of a kind that PyTorch's trees do not know
            found += _answers(list(leaf.values()), depth - 1)
        elif depth and hasattr(leaf, "__dict__") and not callable(leaf):
            found += _answers(list(vars(leaf).values()), depth - 1)
    return found


def _tensors_of(network: nn.Module) -> tuple[dict[int, list[str]], list[Tensor]]:
    """Names of what can be permuted, by `id` (a tied tensor has several), and tensors that stay as they are."""
    names, constants = defaultdict[int, list[str]](list), list[Tensor]()
    for path, module in network.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            if tensor.is_floating_point() and name not in module._non_persistent_buffers_set:
                names[id(tensor)].append(prefix + name)
            else:
                constants.append(tensor)
        others = [value for name, value in vars(module).items() if not name.startswith("_")]
        constants += [tensor for tensor in tensors_in(others) if id(tensor) not in names]
    return names, [tensor for tensor in constants if id(tensor) not in names]


def _modules_of_unused(network: nn.Module, numbering: Numbering) -> list[nn.Module]:
    """Modules of which a submodule has not run: all its parameters are unused."""
    used = {tensor for tensor, _ in numbering.axes} | set(numbering.loose)

    def idle(module: nn.Module) -> bool:
        own = [id(parameter) for parameter in module.parameters()]
        return bool(own) and used.isdisjoint(own)

    return [module for module in network.modules() if not idle(module) and any(map(idle, module.children()))]


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
