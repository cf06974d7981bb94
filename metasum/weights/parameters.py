"""Parameter sets: taking them from a network, comparing them, naming what differs; and buffers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from metasum.errors import ArchitectureError, UsageError
from metasum.types import Parameters
from metasum.weights.copies import copy_of

RUNNING = ("running_mean", "running_var")
"""What norms call their running statistics."""
POWER_ITERATIONS = 50  # from any start; PyTorch takes 15 at a start that it draws


def parameters_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's parameters by dotted name: the very tensors, so gradients reach them. Buffers are left out."""
    return dict(network.named_parameters())


def buffers_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's buffers by dotted name: the very tensors, so a forward in train mode may change them."""
    return dict(network.named_buffers())


def saved_buffers(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Buffers that `state_dict` has: running statistics and counters, which training moves; θ_0 is none of them."""
    for module in modules:
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield buffer


def running_statistics(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Means and variances that norms in training have gathered."""
    for module in modules:
        for name, buffer in module.named_buffers(recurse=False):
            if name in RUNNING:
                yield buffer


class BufferSet(nn.Module):
    """Copies of named tensors, detached, that `.to` moves with the module they are kept in.

    Args:
        tensors: by dotted name; θ_0, or a network's buffers.
        persistent: whether `state_dict` has them.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, persistent: bool = True) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "/"), tensor.detach().clone(), persistent=persistent)

    def by_name(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): buffer for name, buffer in self.named_buffers()}


def with_parameters(network: nn.Module, parameters: Parameters) -> nn.Module:
    """A copy of `network` with these parameters, detached, laid out in memory as its own are.

    Its buffers and the original stay as they are.

    Raises:
        ArchitectureError: the parameters are not those of `network`; the first difference is named.
    """
    check_same_architecture([parameters_of(network), parameters], names=["the network", "the given parameters"])
    twin = copy_of(network)
    for name, parameter in twin.named_parameters():
        given = parameters[name].detach()
        if given.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
            given = given.contiguous(memory_format=torch.channels_last)
        parameter.data = given.clone()
        parameter.grad = None
    return twin


def find_norms_again(network: nn.Module) -> None:
    """After weights were replaced: finds anew by what spectral norms divide them, vectors that are kept as buffers.

    In place, without a gradient; of a network without PyTorch's spectral norms, old or new, nothing.
    """
    for module in network.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                for _ in range(POWER_ITERATIONS):
                    hook.compute_weight(module, do_power_iteration=True)
        if isinstance(module, ParametrizationList):
            weight = getattr(module, "original", None)  # of other parametrisations there are several
            for norm in module.children():
                if isinstance(norm, _SpectralNorm) and weight is not None and weight.ndim > 1:
                    norm._power_method(norm._reshape_weight_to_matrix(weight.detach()), POWER_ITERATIONS)


def layers_of(parameters: Parameters) -> list[list[str]]:
    """Parameter names layer by layer, from the input.

    A layer starts with a tensor of two or more dimensions (a kernel, a matrix) and holds the vectors that follow it:
    its bias, and the scale and shift of its normalisation.
    """
    layers: list[list[str]] = []
    for name, tensor in parameters.items():
        if tensor.ndim >= 2 or not layers:
            layers.append([])
        layers[-1].append(name)
    return layers


def check_same_architecture(parameter_sets: Sequence[Parameters], *, names: Sequence[str] | None = None) -> None:
    """Raises ArchitectureError unless all sets have the same names, shapes and dtypes.

    Args:
        parameter_sets: at least one.
        names: what to call the sets in the message [default: network 1, network 2, …].

    Raises:
        ArchitectureError: names the first parameter that differs, and both shapes (or dtypes).
    """
    labels = names or [f"network {number}" for number in range(1, len(parameter_sets) + 1)]
    first = parameter_sets[0]
    for label, other in zip(labels[1:], parameter_sets[1:], strict=True):
        for name in [*first, *(name for name in other if name not in first)]:
            mine, theirs = _describe(first, name), _describe(other, name)
            if mine != theirs:
                raise ArchitectureError(
                    f"the networks differ in architecture: {name!r} is {mine} in {labels[0]} and {theirs} in {label}."
                )


def _describe(parameters: Parameters, name: str) -> str:
    if name not in parameters:
        return "missing"
    tensor: object = parameters[name]
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values, shortened to 16 hexadecimal digits; the same on every machine."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def unfinite(network: nn.Module) -> str | None:
    """The first of a network's parameters and running statistics that holds NaN or infinite numbers; None: none."""
    running = ((name, own) for name, own in network.named_buffers() if name.rpartition(".")[2] in RUNNING)
    for name, tensor in (*network.named_parameters(), *running):
        if not is_lazy(tensor) and not tensor.isfinite().all():
            return name
    return None


def check_finite(network: nn.Module, whose: str) -> None:
    """Raises UsageError where a parameter holds NaN or infinite numbers; it is named, after `whose` it is."""
    for name, parameter in network.named_parameters():
        if not is_lazy(parameter) and not parameter.isfinite().all():
            raise UsageError(f"{whose}: {name!r} holds NaN or infinite numbers, and so would all results.")
