"""ZipIt! (Stoica et al. 2024, arXiv:2305.03053): channels that answer alike become one, within and across networks.

Permuting assumes that each channel of one network has its like in the other. Networks of different tasks have channels
that are like none of the other's, and some that are like their own neighbours. ZipIt! looks at the channels of all
networks together, and merges the most correlated until as many are left as one network has.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metasum.config import option
from metasum.merging.endpoints import Endpoint, PreparingMethod
from metasum.merging.method import ImagesConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.baselines.features import Reader
    from metasum.networks.channels import Axis, ChannelGroup

CHUNK = 32  # inputs that are run at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZipItConfig(ImagesConfig):
    """Settings of `zipit`."""

    zip_alpha: float = option(
        0.3, "α: factor on a channel's likeness to others each time that ZipIt! merges it.", minimum=0, maximum=1
    )
    zip_beta: float = option(
        0.125, "β: share of its merges that ZipIt! may make within one network.", minimum=0, maximum=1
    )


class ZipIt(PreparingMethod):
    """The average of networks whose merged channels read and are read as one.

    What writes channels writes the mean of those that become one (the paper's merge matrix M, times the number of
    networks, which the average divides by again); what reads them reads the one in the place of each (its unmerge
    matrix U). Correlations are of what linear layers and convolutions read: behind batch norm and activation function.
    A stream that several layers add to is one set of channels; its correlations are the mean over all who read it,
    where the authors' code looks at one place of it. Three or more networks merge what is alike in all of them best
    with α = 1: any less is a penalty on a second merge, and a channel of N networks takes N - 1 of them.

    Layers that are kept (`keep=` in `metasum.merge`) read the merged channels through their own network's U: keep all
    from some layer on, and the networks are zipped up to there (section 4.2, partial zipping).

    Channels that cannot be added up are put in the order of the first network's, as `ActivationMatching` does, and
    averaged: attention heads and parts of grouped or depthwise convolutions, what is normalised or attended to together
    (a layer norm's stream), and what kept layers write.
    """

    name = "zipit"
    summary = "Merges the channels most alike, within and across networks, till one network's are left."
    paper = "Stoica et al. 2024, arXiv:2305.03053"
    Config = ZipItConfig
    candidates = {"zip_alpha": (0.0001, 0.3, 1.0), "zip_beta": (0.0, 0.125, 1.0)}
    needs_images = True
    needs_networks = True
    any_start = True
    two_starts = True

    def prepared(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """Copies with channels merged, written N times as large as they are: their average is the zipped network.

        Raises:
            ArchitectureError: a network's channels cannot be followed; the layer is named.
            DivergenceError: what a network computes is NaN or infinite.
        """
        from metasum.baselines.activation_matching import ActivationMatching
        from metasum.baselines.features import readers
        from metasum.weights.batches import limited

        ends = list(endpoints)
        free, rest = _addable_groups(ends)
        if rest:
            ends = ActivationMatching(merging_images=self.config.merging_images).prepared(ends)
        groups = [each[0] for each in free]
        reading = [
            reader
            for reader in readers(ends[0].network, groups)
            if all(reader.axis in own.positions for own in free[reader.group])
        ]
        chunks = (chunk for end in ends for chunk in limited(end.images, self.config.merging_images, size=CHUNK))
        found = _correlations(ends, reading, groups, chunks)
        plans: list[list[_Zip]] = [[] for _ in ends]
        for number, correlation in found.items():
            for plan, own, members in zip(plans, free[number], self._zipped(correlation, len(ends)), strict=True):
                plan.append(_Zip(own, *members))
        return [_zipped_copy(end, plan, len(ends)) for end, plan in zip(ends, plans, strict=True)]

    def _zipped(self, correlation: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
        """For each network the merged channel of each of its own, and how many each is made of."""
        from metasum.baselines.zipping import zipped

        numbers = zipped(correlation, count, alpha=self.config.zip_alpha, beta=self.config.zip_beta)
        sizes = numbers.flatten().bincount()
        return [(own, sizes) for own in numbers]


class _Zip(NamedTuple):
    """What becomes of one network's channels of a group."""

    group: ChannelGroup
    becomes: Tensor
    """int64 `[channels]`: the merged channel that each is part of."""
    sizes: Tensor
    """int64 `[channels]`: how many channels of all networks each merged one is made of."""


def _addable_groups(endpoints: Sequence[Endpoint]) -> tuple[list[list[ChannelGroup]], bool]:
    """Groups of channels of which several can become one, in all networks; and whether there are any others.

    Each comes as every network's own, at the same places in all merged tensors: kept layers may differ in what they
    read.
    """
    from metasum.baselines.channel_matching import groups_of

    first, *others = [groups_of(end) for end in endpoints]
    found, rest = [], False
    for group in (group for group in first if group.size > 1):
        partners = [_same(group, own, endpoints[0].kept) for own in others]
        every = [group, *(partner for partner in partners if partner is not None)]
        inside = any(block.of_blocks and block.overlaps(group) for block in first)
        if len(every) == len(endpoints) and not inside and _can_be_added(every, endpoints):
            found.append(every)
        else:
            rest = True
    return found, rest


def _same(group: ChannelGroup, among: Sequence[ChannelGroup], kept: frozenset[str]) -> ChannelGroup | None:
    axes = [axis for axis in group.positions if axis.name not in kept]
    return next(
        (
            other
            for other in among
            if axes and all(axis in other.positions for axis in axes) and other.of_blocks == group.of_blocks
            if all(bool(other.positions[axis].equal(group.positions[axis])) for axis in axes)
        ),
        None,
    )


def _can_be_added(groups: Sequence[ChannelGroup], endpoints: Sequence[Endpoint]) -> bool:
    """Whether several of a group's channels can become one, in all networks, and someone is seen to read them."""
    from metasum.baselines.features import readers

    for group, end in zip(groups, endpoints, strict=True):
        if group.of_blocks or group.tied or not readers(end.network, [group]):
            return False
        if not all(_reads(axis, end.network) or _writes(axis, end) for axis in group.positions):
            return False
    return True


def _reads(axis: Axis, network: nn.Module) -> bool:
    """Whether an axis holds what a linear layer or an ungrouped convolution reads."""
    return axis.dimension == 1 and _is_plain(axis, network)


def _writes(axis: Axis, endpoint: Endpoint) -> bool:
    """Whether a merged tensor has an entry, or what such a layer writes, for each channel."""
    if axis.name in endpoint.kept or axis.dimension:
        return False
    return endpoint.network.state_dict()[axis.name].ndim == 1 or _is_plain(axis, endpoint.network)


def _is_plain(axis: Axis, network: nn.Module) -> bool:
    from torch import nn

    path, _, name = axis.name.rpartition(".")
    module = network.get_submodule(path)
    convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1
    return name == "weight" and (convolution or isinstance(module, nn.Linear))


def _correlations(
    endpoints: Sequence[Endpoint], reading: Sequence[Reader], groups: Sequence[ChannelGroup], chunks: Any
) -> dict[int, Tensor]:
    """By the group's number, of all networks' channels side by side: `[N * channels, N * channels]`, float64, CPU.

    The mean over those who read it; 0 where a channel is constant. Groups without an image are not in it.
    """
    import torch

    from metasum.baselines.features import Moments, features

    moments = defaultdict["Reader", Moments](Moments)
    for reader, rows in features(endpoints, reading, groups, chunks):
        together = torch.cat(rows, dim=1)
        moments[reader].add(together, together)
    found = defaultdict[int, list["Tensor"]](list)
    for reader, own in moments.items():
        found[reader.group].append(own.correlation())
    return {number: torch.stack(own).mean(dim=0) for number, own in found.items()}


def _zipped_copy(endpoint: Endpoint, plan: Sequence[_Zip], count: int) -> Endpoint:
    """The network with its share of the merged channels, of `count` networks that will be averaged."""
    import torch

    from metasum.weights.copies import copy_of

    twin = copy_of(endpoint.network)
    state = twin.state_dict()
    changed = dict(state)
    for own in plan:
        for axis, positions in own.group.positions.items():
            share = None if _reads(axis, twin) else count / own.sizes
            changed[axis.name] = _gathered(changed[axis.name], axis.dimension, positions, own.becomes, share)
    with torch.no_grad():
        for name, tensor in changed.items():
            state[name].copy_(tensor)
    return endpoint._replace(network=twin)


def _gathered(tensor: Tensor, dimension: int, positions: Tensor, becomes: Tensor, share: Tensor | None) -> Tensor:
    """A tensor with the entries of channels added up that become one, each merged channel's times its share."""
    import torch

    wide = tensor.detach().movedim(dimension, 0).to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
    rows = wide[positions.flatten().to(tensor.device)]
    blocks = rows.reshape(len(positions), -1)  # a block's pixels and all else of one channel
    total = torch.zeros_like(blocks).index_add_(0, becomes.to(tensor.device), blocks)
    if share is not None:
        total *= share.to(total)[:, None]
    wide[positions.flatten().to(tensor.device)] = total.reshape(rows.shape)
    return wide.movedim(0, dimension).to(tensor.dtype)
