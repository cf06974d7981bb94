"""Networks side by side in one network, as wide as all of them: adding weights that have no place in common.

In a network of N times the width, each of N networks has weights in channels of its own. Their sum is block diagonal,
which is what grouped layers are: it costs what the N networks cost, and adds their logits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metasum.errors import ArchitectureError, UsageError
from metasum.networks.channels import channel_groups, noise_for
from metasum.networks.grouped import grouped_layer, replace_layer
from metasum.weights.batches import Forward
from metasum.weights.calling import answer
from metasum.weights.parameters import check_same_architecture, parameters_of

BESIDE = "side_by_side"
"""Where the metadata of a weights file say of how many networks it is made; its architecture is that of one."""


def beside(networks: Sequence[nn.Module], images: Any = None, *, forward: Forward | None = None) -> nn.Module:
    """One network whose logits are the sum of the networks', with every one's own statistics.

    Hidden channels stand one network after the other. Layers between them become grouped ones, the first layer has all
    outputs, the last reads all inputs and has the sum of the biases. Before it is returned, it is run on images
    beside the networks. Its parameters are new, and have gradients of their own.

    Args:
        networks: two or more, of one architecture, on one device, in eval mode; they are left alone.
        images: a few inputs that they take, of which the result is run on [default: noise of a size that they take].
        forward: from a network and such a batch to logits, where it is not called in the usual way.

    Raises:
        ArchitectureError: they differ in architecture; or their channels cannot be followed, or a layer is of a kind
            that has no place beside another one: it is named.
    """
    first = networks[0]
    check_same_architecture([parameters_of(network) for network in networks])
    images = noise_for(first) if images is None else images
    hidden = _hidden_axes(first, images, forward)
    wide = copy.deepcopy(first)
    for name, module in first.named_modules():
        if next(module.parameters(recurse=False), None) is None and not _statistics(module):
            continue
        replace_layer(wide, name, _wide(name, [network.get_submodule(name) for network in networks], hidden))
    _check(wide, networks, lambda network: answer(network, images, forward))
    setattr(wide, BESIDE, len(networks))
    return wide


def count_beside(network: nn.Module) -> int:
    """Of how many networks `beside` made it; 1 of any other."""
    return int(getattr(network, BESIDE, 1))


def metadata_of(network: nn.Module) -> dict[str, str]:
    """What the metadata of its weights file say beside the architecture, which is that of one network."""
    count = count_beside(network)
    return {BESIDE: str(count)} if count > 1 else {}


def _hidden_axes(network: nn.Module, images: Any, forward: Forward | None) -> set[tuple[str, int]]:
    """Names and dimensions of the tensors that hold hidden channels."""
    axes, tensors = set(), network.state_dict()
    for group in channel_groups(network, images, forward=forward):
        for axis in group.positions:
            if not group.fills(axis, tensors[axis.name].shape[axis.dimension]):
                raise ArchitectureError(
                    f"{axis.name!r} mixes the channels of several layers; networks with such a layer have no place "
                    "beside one another."
                )
            axes.add((axis.name, axis.dimension))
    return axes


def _statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None


def _wide(name: str, modules: Sequence[Any], hidden: set[tuple[str, int]]) -> nn.Module:
    """One layer for the same layer of every network."""
    first, count = modules[0], len(modules)
    if isinstance(first, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
        return _wide_norm(modules)
    if not isinstance(first, nn.Linear | nn.Conv2d) or getattr(first, "groups", 1) != 1:
        raise ArchitectureError(f"{name!r} ({type(first).__name__}) has no place beside another network's.")
    weights = [module.weight.detach() for module in modules]
    biases = None if first.bias is None else [module.bias.detach() for module in modules]
    out, into = ((f"{name}.weight", dimension) in hidden for dimension in (0, 1))
    if out:  # in channels of its own
        weight, bias = torch.cat(weights), None if biases is None else torch.cat(biases)
        return grouped_layer(first, weight, bias, count if into else 1)
    bias = None if biases is None else torch.stack(biases).sum(dim=0)
    if into:  # logits
        return grouped_layer(first, torch.cat(weights, dim=1), bias, 1)
    return grouped_layer(first, torch.stack(weights).sum(dim=0), bias, 1)


def _wide_norm(modules: Sequence[Any]) -> nn.Module:
    wide: nn.Module = copy.deepcopy(modules[0])
    tensors = {**dict(wide.named_parameters()), **dict(wide.named_buffers())}
    for name, tensor in tensors.items():
        if not tensor.ndim:
            continue  # a counter
        together = torch.cat([getattr(module, name).detach() for module in modules])
        setattr(wide, name, nn.Parameter(together) if isinstance(tensor, nn.Parameter) else together)
    for size in ("num_features", "num_channels", "num_groups"):
        if hasattr(wide, size):
            setattr(wide, size, getattr(wide, size) * len(modules))
    return wide


def _check(wide: nn.Module, networks: Sequence[nn.Module], ask: Callable[[nn.Module], Tensor]) -> None:
    """Raises ArchitectureError where the wide network does not compute the sum of the others' logits.

    It is asked in full precision: in bfloat16 a sum whose parts nearly cancel is further off than any bound allows.
    """
    device = next(wide.parameters()).device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        each = torch.stack([ask(network) for network in networks])
        try:
            right = torch.allclose(
                ask(wide), each.sum(dim=0), rtol=1e-2, atol=1e-3 * float(each.abs().sum(dim=0).max())
            )
        except UsageError:  # of shapes that do not fit
            right = False
    if not right:
        raise ArchitectureError(
            "side by side these networks do not compute the sum of what they do: their forward does something that "
            "depends on how many channels there are."
        )
