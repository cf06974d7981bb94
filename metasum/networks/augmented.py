"""Layer augmentation: a layer with slow weights and, beside them, fast ones (Munkhdalai & Yu 2017, section 3.3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from metasum.errors import ArchitectureError, UsageError
from metasum.networks.vgg import VGG16

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU)


class Augmented(nn.Module):
    """A network whose last layers have one set of fast weights beside the slow ones; both are parameters.

    Fast weights are 0 at first, and the network is as it was. They are called "fast.", and their layer with slashes.

    Args:
        network: nested modules that are run one after the other (a `nn.Sequential`, VGG16); its parts are taken over.

    Raises:
        ArchitectureError: it is not run so.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Sequential | VGG16):
            raise ArchitectureError(f"{type(network).__name__} is not a chain of layers, which fast weights need.")
        for name, child in network.named_children():
            self.add_module(name, child)
        self.fast = nn.ParameterDict(
            {
                name.replace(".", "/"): torch.zeros_like(network.get_parameter(name))
                for name in augmented_names(network, within=last_parts(network))
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, 32, 32]` to logits `[N, classes]`."""
        rows = {name.replace("/", "."): fast.unsqueeze(0) for name, fast in self.fast.items()}
        return augmented(self, rows, images.new_ones(1, 1), images)

    def slow(self) -> nn.Sequential:
        """The network without its fast weights: the same modules."""
        return nn.Sequential(OrderedDict((name, child) for name, child in self.named_children() if name != "fast"))


def last_parts(network: nn.Module) -> tuple[str, ...]:
    """Names of the last two children that have weights: of VGG16 the last block and the classifier."""
    names = [name for name, child in network.named_children() if next(child.parameters(), None) is not None]
    return tuple(names[-2:])


def augmented(network: nn.Module, fast: Mapping[str, Tensor], weights: Tensor, images: Tensor) -> Tensor:
    """`network(images)` with layers that answer σ(W·x) + σ(W*·x), W* = weights·fast for each image.

    σ is the activation that follows. Where none does, as after the last layer, W·x + W*·x. What stands between a
    layer and its activation, batch norm, is for the slow branch alone. Layers without fast weights stay as they are.

    Args:
        network: nested modules that are run one after the other (a `nn.Sequential`, VGG16).
        fast: rows of fast weights `[M, *shape]` by name of a convolution's or linear layer's "…weight".
        weights: `[Q, M]`: what each image takes of each row; or `[1, M]`, the same for all.
        images: `[Q, C, H, W]`.

    Raises:
        UsageError: a convolution with fast weights is strided, dilated or grouped.
    """
    outputs, beside = images, None
    for name, layer in _layers(network):
        if f"{name}.weight" in fast:
            if beside is not None:
                outputs, beside = outputs + beside, None
            outputs, beside = layer(outputs), _fast_branch(layer, fast[f"{name}.weight"], weights, outputs)
        elif beside is not None and isinstance(layer, ACTIVATIONS):
            outputs, beside = layer(outputs) + layer(beside), None
        else:
            outputs = layer(outputs)
    return outputs if beside is None else outputs + beside


def augmented_names(network: nn.Module, *, within: tuple[str, ...] = ("",)) -> list[str]:
    """Names of the weights that can have fast ones beside them, of layers whose name starts with one of `within`."""
    return [
        f"{name}.weight"
        for name, layer in _layers(network)
        if isinstance(layer, nn.Conv2d | nn.Linear) and name.startswith(within)
    ]


def _layers(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The leaves in the order in which they run."""
    for name, module in network.named_children():
        if isinstance(module, nn.ParameterDict):
            continue
        if next(module.children(), None) is None:
            yield prefix + name, module
        else:
            yield from _layers(module, f"{prefix}{name}.")


def _fast_branch(layer: nn.Module, rows: Tensor, weights: Tensor, inputs: Tensor) -> Tensor:
    own = (weights @ rows.flatten(1)).reshape(len(weights), *rows.shape[1:])  # [Q or 1, *shape]
    if isinstance(layer, nn.Linear):
        return linear(inputs, own[0]) if len(own) == 1 else torch.einsum("qoi,qi->qo", own, inputs)
    assert isinstance(layer, nn.Conv2d)
    if layer.stride != (1, 1) or layer.dilation != (1, 1) or layer.groups != 1:
        raise UsageError("fast weights are for plain convolutions; this one is strided, dilated or grouped.")
    padding = layer.padding
    if len(own) == 1:
        return conv2d(inputs, own[0], padding=padding)
    count, channels, height, width = inputs.shape  # as one convolution with a group for each image
    outputs = conv2d(
        inputs.reshape(1, count * channels, height, width), own.flatten(0, 1), padding=padding, groups=count
    )
    return outputs.reshape(count, -1, *outputs.shape[2:])
