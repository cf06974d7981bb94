"""Copies of a network that share nothing with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from metasum.errors import ArchitectureError, reason


def copy_of(network: nn.Module, *, instead: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A deep copy of `network`, with its parameters, buffers, modes and hooks.

    Tensors that a forward left in an attribute (an activation that is kept, the weight that the old `weight_norm` or a
    pruning mask computes) are copied as values, cut off from the gradient: PyTorch's own deep copy refuses them.

    Args:
        network: is left alone.
        instead: the very tensors that the copy has in place of parameters and buffers of these names.

    Raises:
        ArchitectureError: a submodule cannot be copied; it is named.
    """
    memo = {id(tensor): tensor.detach().clone() for tensor in _computed(network)}
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    memo |= {id(own[name]): tensor for name, tensor in (instead or {}).items()}
    try:
        return copy.deepcopy(network, memo)
    except Exception as error:
        name, module = _first_without_copy(network)
        raise ArchitectureError(
            f"{_label(name, module)} cannot be copied, which a sum of networks needs: {reason(error)}"
        ) from error


def _computed(network: nn.Module) -> Iterator[Tensor]:
    """Tensors in attributes of its modules, alone or in a list, that were computed with gradients."""
    for module in network.modules():
        for value in list(vars(module).values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Tensor) and not item.is_leaf:
                    yield item


def _first_without_copy(network: nn.Module) -> tuple[str, nn.Module]:
    """The innermost submodule that deep copy fails on, by name."""
    for name, module in reversed(list(network.named_modules())):
        try:
            copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in _computed(module)})
        except Exception:  # noqa: BLE001 (whatever a module of the user raises)
            return name, module
    return "", network


def _label(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"submodule {name!r} ({kind})" if name else f"the network ({kind})"
