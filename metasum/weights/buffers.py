"""Tensors that belong to a module without being its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn


def saved_buffers(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Buffers that `state_dict` has: running statistics and counters, which training moves; θ_0 is none of them."""
    for module in modules:
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
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
