"""The head of a network: the layer that maps features to classes. Networks of several tasks often share the rest only.

Where the head is, the network is asked: its last layer is the one whose output is the network's answer. A network of
which this cannot be seen (its answer is a log-softmax, or a mean over pixels) says it in an attribute `head_layer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from metasum.errors import ArchitectureError
from metasum.networks.channels import noise_for
from metasum.types import Parameters
from metasum.weights.batches import device_of
from metasum.weights.calling import answer
from metasum.weights.listening import listening
from metasum.weights.modes import in_eval_mode
from metasum.weights.parameters import parameters_of, with_parameters
from metasum.weights.randomness import same_randomness


def head_of(network: nn.Module, images: Any = None) -> frozenset[str]:
    """Names of the parameters and buffers of the network's head.

    Args:
        network: is left as it is.
        images: a few that it takes, `[N, C, H, W]`, on its device; it is run on them once, without a gradient
            [default: noise].

    Raises:
        ArchitectureError: it cannot be told which layer is the head; the head shares a weight with another layer; or
            the network is nothing but a head.
    """
    layer = head_layer(network, images)
    every = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    own = {name: id(tensor) for name, tensor in every if name.startswith(f"{layer}.")}
    for name, tensor in every:
        if name not in own and id(tensor) in own.values():
            raise ArchitectureError(f"--heads own: the head {layer!r} shares a weight with {name!r}, which is summed.")
    if all(name in own for name, _ in network.named_parameters()):
        raise ArchitectureError(f"--heads own: this network is nothing but its head {layer!r}; nothing is left to sum.")
    return frozenset(own)


def head_layer(network: nn.Module, images: Any = None) -> str:
    """The name of the module that is the network's head; see `head_of` for arguments and errors."""
    said = getattr(network, "head_layer", None)
    if isinstance(said, str):
        if said not in dict(network.named_modules()) or not _maps(network.get_submodule(said)):
            raise ArchitectureError(
                f"--heads own: the network says that its head is {said!r}, which is no layer of it."
            )
        return said
    with torch.no_grad(), same_randomness(device_of(network)), in_eval_mode(network):
        shown = noise_for(network) if images is None else images
        with _outputs(network) as outputs:
            logits = answer(network, shown)
    names = [own.name for own in outputs]
    found = [own.name for own in outputs if own.is_all_of(logits)]  # the innermost module first
    if not found or names.count(found[0]) > 1 or any(name.startswith(f"{found[0]}.") for name in names):
        raise ArchitectureError(
            f"--heads own: it cannot be told which layer of network {type(network).__name__} is its head, since its "
            'answer is not one layer\'s output as it is; an attribute of the network can say it: head_layer = "fc".'
        )
    return found[0]


def with_trunk(network: nn.Module, trunk: Parameters) -> nn.Module:
    """A copy of `network`, in eval mode, with these parameters in place of its own; the others, its head, it keeps.

    Raises:
        ArchitectureError: `trunk` has one that the network has not, or in another shape; it is named.
    """
    return with_parameters(network, {**parameters_of(network), **trunk}).eval()


class _Output(NamedTuple):
    name: str
    kept: Tensor
    """As the module returned it: the very tensor, which later code may overwrite."""
    copied: Tensor

    def is_all_of(self, logits: Tensor) -> bool:
        """Whether the network's answer is this output, of another shape at most."""
        same = self.kept.numel() == logits.numel() and self.kept.data_ptr() == logits.data_ptr()
        return same and torch.equal(self.copied.flatten(), logits.flatten())


def _maps(layer: nn.Module) -> bool:
    """Whether it has a matrix or a kernel: what maps features to classes, as no normalisation does."""
    return any(tensor.ndim >= 2 for tensor in layer.parameters())


@contextmanager
def _outputs(network: nn.Module) -> Iterator[list[_Output]]:
    """Within the block, what each module with a matrix returns, in the order in which they end."""
    found: list[_Output] = []

    def keep(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append(_Output(name, output, output.clone()))

    modules = [(name, module) for name, module in network.named_modules() if name and _maps(module)]
    layers = {name: module for name, module in modules if not isinstance(module, ParametrizationList)}
    with listening(layers, returned=keep):
        yield found
