"""What a network is called with, and what it answers: tensors, alone or in tuples, dictionaries and objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

DEPTH = 4  # how far objects in objects are looked into


class Inputs(NamedTuple):
    """The arguments of one call, `network(*positional, **named)`."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    @classmethod
    def of(cls, example: Any) -> Inputs:
        """From a tensor (the one input), a tuple (the inputs by position) or a mapping (by name)."""
        if isinstance(example, Mapping):
            return cls((), dict(example))
        return cls(example if isinstance(example, tuple) else (example,), {})

    def call(self, network: Callable[..., Any]) -> Any:
        return network(*self.positional, **self.named)

    def device(self, network: nn.Module) -> torch.device:
        """Where the first tensor lies; without any, where the first parameter of `network` does."""
        first = next(tensors_in(tuple(self)), None)
        if first is None:
            first = next(network.parameters(), torch.empty(0))
        return first.device

    def copies(self, count: int | None = None) -> Inputs:
        """Copies of all tensors, detached.

        Args:
            count: of each only the first so many entries, where it has as many as the first tensor [default: all].
        """
        size = next((len(tensor) for tensor in tensors_in(tuple(self)) if tensor.ndim), None)

        def copied(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            own = value.detach().clone()
            return own[:count] if count is not None and own.ndim and len(own) == size else own

        positional, named = tree_map(copied, tuple(self))
        return Inputs(positional, named)


def tensors_in(value: Any, depth: int = DEPTH) -> Iterator[Tensor]:
    """All tensors in a value: itself, in lists, tuples and mappings, in attributes of objects; in a fixed order."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif depth and hasattr(leaf, "__dict__") and not isinstance(leaf, type | nn.Module):
            yield from tensors_in(vars(leaf), depth - 1)
