"""Copies of a network that share nothing with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from metasum.errors import ArchitectureError, reason


def copy_of(network: nn.Module, *, instead: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A deep copy of `network`, with its parameters, buffers, modes and hooks.

    Tensors that were computed and left in an attribute (an activation that is kept, the weight that the old
    `weight_norm` or a pruning mask computes) are copied as leaves of their own, which PyTorch's deep copy refuses to
    do: whoever reads one before it is computed anew is found out by its gradient. Attributes in `__slots__`, which
    PyTorch's copy drops, are copied as well.

    Args:
        network: is left alone.
        instead: the very tensors that the copy has in place of parameters and buffers of these names.

    Raises:
        ArchitectureError: a submodule cannot be copied; it is named.
    """
    try:
        return _deep_copy(network, instead or {})
    except Exception as error:
        name, module = _first_without_copy(network)
        raise ArchitectureError(
            f"{_label(name, module)} cannot be copied, which a sum of networks needs: {reason(error)}"
        ) from error


def _deep_copy(network: nn.Module, instead: Mapping[str, Tensor]) -> nn.Module:
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone().requires_grad_() for tensor in _computed(network)}
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    memo |= {id(own[name]): tensor for name, tensor in instead.items()}
    twin = copy.deepcopy(network, memo)
    for module in list(network.modules()):
        for name, value in slots_of(module).items():
            object.__setattr__(memo[id(module)], name, copy.deepcopy(value, memo))
    return twin


def slots_of(value: object) -> dict[str, Any]:
    """Attributes that lie in `__slots__` of its class, and of those that it inherits from."""
    names: list[str] = []
    for kind in type(value).__mro__:
        own = vars(kind).get("__slots__", ())
        names.extend([own] if isinstance(own, str) else own)
    return {name: getattr(value, name) for name in names if not name.startswith("__") and hasattr(value, name)}


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
            _deep_copy(module, {})
        except Exception:  # noqa: BLE001 (whatever a module of the user raises)
            return name, module
    return "", network


def _label(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"submodule {name!r} ({kind})" if name else f"the network ({kind})"
