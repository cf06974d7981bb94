"""A network with a part of its channels, and one whose blocks run side by side: the same functions, cheaper.

What networks in slots add up to is block diagonal: as a dense network it multiplies by zeros N² - N times out of N²,
as grouped convolutions (Krizhevsky et al. 2012) it costs what its N blocks cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from metasum.errors import ArchitectureError, MetaSumError
from metasum.networks.channels import channel_groups, example_image
from metasum.networks.grouped import grouped_layer, replace_layer
from metasum.networks.same_function import same_function

MOST_BLOCKS = 64


def cut_out(network: nn.Module, part: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A copy of `network` with a part of each tensor: `part` takes its name and the tensor.

    The copy's parameters have gradients of their own; what a layer says of its size is brought up to date.
    """
    cut = copy.deepcopy(network)
    for path, module in cut.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in list(module.named_parameters(recurse=False)):
            own = part(prefix + name, parameter.detach()).clone()
            setattr(module, name, nn.Parameter(own, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = part(prefix + name, buffer).clone()
        _resize(module)
    return cut


def _resize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:  # each channel by itself
            module.groups = module.groups * len(module.weight) // module.out_channels
        module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.weight is not None:
        module.num_features = len(module.weight)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_groups = module.num_channels = len(module.weight)


def in_blocks(network: nn.Module) -> nn.Module:
    """The same function as a new network without its unused channels, independent blocks as grouped layers.

    Args:
        network: e.g. a sum of networks in slots, in eval mode; it is left alone, and returned where nothing is saved.
    """
    if all(bool(module.weight.all()) for module in network.modules() if _is_dense(module)):
        return network  # no zeros, no blocks: the usual case, at a glance
    cut = without_unused_channels(network)
    return grouped(cut, count) if (count := block_count(cut)) > 1 else cut


def without_unused_channels(network: nn.Module) -> nn.Module:
    """The same function without the hidden channels whose every weight is 0, as a new network.

    A network is returned as it is whose channels cannot be followed, or are all used, or whose code counts on how many
    there are. Channels that are seen together with others (by a norm, an attention) stay.
    """
    try:
        groups = [group for group in channel_groups(network) if not group.tied]
    except ArchitectureError:
        return network
    parameters = {name: tensor.detach() for name, tensor in network.named_parameters(remove_duplicate=False)}
    kept: dict[tuple[str, int], Tensor] = {}
    tensors = network.state_dict()
    for group in groups:
        used = torch.zeros(group.size, dtype=torch.bool)
        for axis, positions in group.positions.items():
            if (tensor := parameters.get(axis.name)) is not None:
                nonzero = (tensor != 0).movedim(axis.dimension, 0)
                along = nonzero.reshape(len(nonzero), -1).any(dim=1).cpu()
                used |= along[positions].any(dim=1)
        used[0] |= not used.any()  # a layer without channels is none
        for axis, positions in group.positions.items():
            size = tensors[axis.name].shape[axis.dimension]
            mask = kept.setdefault((axis.name, axis.dimension), torch.ones(size, dtype=torch.bool))
            mask[positions[~used].flatten()] = False
    if all(mask.all() for mask in kept.values()):
        return network

    def part(name: str, tensor: Tensor) -> Tensor:
        for dimension in range(tensor.ndim):
            if (mask := kept.get((name, dimension))) is not None:
                tensor = tensor.index_select(dimension, mask.nonzero().flatten().to(tensor.device))
        return tensor

    cut = cut_out(network, part)
    return cut if _computes_the_same(network, cut) else network


def _computes_the_same(network: nn.Module, cut: nn.Module) -> bool:
    image = torch.ones_like(example_image(network))
    with torch.no_grad():
        try:
            same_function(network, cut, image)
        except MetaSumError:  # also of shapes that its code does not expect
            return False
    return True


def block_count(network: nn.Module) -> int:
    """Into how many equal blocks most layers of `network` fall, the most of those numbers; 1 where none does."""
    layers = [module for module in network.modules() if _is_dense(module)]
    split = {count: sum(_blocks(module, count) is not None for module in layers) for count in range(2, MOST_BLOCKS + 1)}
    most = max(split, key=lambda count: (split[count], count))
    return most if split[most] else 1


def grouped(network: nn.Module, count: int) -> nn.Module:
    """The same function as a new network in which layers of `count` independent blocks are grouped.

    Their weights have the shape `[out, in / count, …]`, block after block; all names stay.
    """
    twin = copy.deepcopy(network)
    for name, module in list(twin.named_modules()):
        if _is_dense(module) and (blocks := _blocks(module, count)) is not None:
            replace_layer(twin, name, grouped_layer(module, blocks, module.bias, count))
    return twin


def _is_dense(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)


def _blocks(module: nn.Conv2d | nn.Linear, count: int) -> Tensor | None:
    """The weights of `count` independent blocks, one after the other; None where the layer does not fall into them."""
    weight = module.weight.detach()
    if any(size % count for size in weight.shape[:2]):
        return None
    out, into, *kernel = weight.shape
    split = weight.reshape(count, out // count, count, into // count, *kernel)
    own = torch.stack([split[index, :, index] for index in range(count)])
    return own.flatten(0, 1) if own.count_nonzero() == weight.count_nonzero() else None
