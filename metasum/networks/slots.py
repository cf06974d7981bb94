"""A share of a network's channels: a thin network to train by itself, and its place in the whole one.

Two networks in different slots have no weight in common, so that their sum runs both side by side and adds their
logits: adding weights becomes adding functions. PackNet (Mallya & Lazebnik 2018, arXiv:1711.05769) gives each task of
one network weights of its own, and lets later tasks read those of earlier ones; here nobody reads anybody's, so that
nobody has to be there first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasum.errors import ArchitectureError
from metasum.networks.channels import channel_groups
from metasum.networks.cutting import cut_out


class Slot:
    """Part number `index` of `count` nearly equal parts of every group of hidden channels.

    Input channels and logits are everybody's. All other weights of a network in a slot are 0.

    Args:
        network: the whole architecture; only its structure is read.
        index: from 0.
        count: at least 1.

    Raises:
        ArchitectureError: the network's channels cannot be followed, or a layer has fewer channels than there are
            slots; it is named.
    """

    def __init__(self, network: nn.Module, index: int, count: int) -> None:
        self._parts: dict[str, dict[int, slice]] = {}  # by tensor and dimension
        for name, module in network.named_modules():
            if isinstance(module, nn.GroupNorm) and module.num_groups != module.num_channels:
                raise ArchitectureError(f"{name!r} normalises several channels at once, and so ties slots together.")
        for group in channel_groups(network):
            channels = group.size
            own = slice(channels * index // count, channels * (index + 1) // count)
            for axis in group.positions:
                if group.of_blocks or group.tied:
                    raise ArchitectureError(
                        f"channels of {axis.name!r} are seen together (by a norm, an attention, the parts of a "
                        "convolution), which ties slots together."
                    )
                if channels < count:
                    raise ArchitectureError(f"{axis.name!r} has {channels} channels, too few for {count} slots.")
                size = network.state_dict()[axis.name].shape[axis.dimension]
                if not group.fills(axis, size):
                    raise ArchitectureError(f"{axis.name!r} mixes the channels of several layers; slots cut in one.")
                block = size // channels  # a flattened channel has several entries
                self._parts.setdefault(axis.name, {})[axis.dimension] = slice(own.start * block, own.stop * block)

    def take(self, network: nn.Module) -> nn.Module:
        """The thin network of this slot, a copy with the weights that `network` has there and gradients of its own."""
        return cut_out(network, self._part)

    def start(self, network: nn.Module) -> nn.Module:
        """`take`, with weights as large as where the thin network had been drawn for itself.

        Weights are drawn with a variance of one over the number of inputs, times a constant (He et al. 2015,
        arXiv:1502.01852, section 2.2). A thin layer has fewer inputs than the whole one that its weights were drawn
        for, so each is multiplied by the root of how many times fewer. Where nothing normalises, the outputs of every
        layer would else start too small, and the logits far too small.
        """
        thin, whole = self.take(network), dict(network.named_parameters())
        with torch.no_grad():
            for name, weight in thin.named_parameters():
                if weight.ndim > 1:
                    weight.mul_(math.sqrt(whole[name][0].numel() / weight[0].numel()))
        return thin

    def place(self, state: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The thin network's tensors where they belong among zeros; the gradient flows back to them.

        Args:
            state: parameters or buffers of a network that `take` made, by name.
            whole: tensors of the full shapes, by name; only their shapes are read.
        """
        placed = {}
        for name, tensor in state.items():
            placed[name] = torch.zeros(whole[name].shape, dtype=tensor.dtype, device=tensor.device)
            placed[name][self._slices(name, tensor)] = tensor
        return placed

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        return tensor[self._slices(name, tensor)]

    def _slices(self, name: str, tensor: Tensor) -> tuple[slice, ...]:
        own = self._parts.get(name, {})
        return tuple(own.get(dimension, slice(None)) for dimension in range(tensor.ndim))
