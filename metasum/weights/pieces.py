"""Tensors that lie in pieces, one in each process of a run (PyTorch's DTensor): put together, and cut.

DTensor is imported where it is used: it takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def in_pieces(tensor: Tensor) -> bool:
    """Whether this process holds only a piece of it."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_piece(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its piece, with the same memory, or all of it. The gradient is kept."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def put_together(state: Any, *, keep: bool = True) -> Any:
    """A state dictionary whose tensors are whole; those that were in pieces are on the CPU, detached.

    All processes call it together. One tensor at a time is whole on the device.

    Args:
        state: tensors and other values in dictionaries, lists and tuples.
        keep: whether this process wants it; the others help, and get None in place of what was in pieces.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        whole: Tensor = state.full_tensor().detach()
        return whole.cpu() if keep else None
    if isinstance(state, Mapping):
        return {name: put_together(value, keep=keep) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(put_together(value, keep=keep) for value in state)
    return state


def cut(tensor: Tensor, like: Tensor) -> Tensor:
    """The first process's whole tensor, cut as `like` is, on its device; as it is where `like` is whole.

    All processes call it together, with a tensor of one shape. It is not compared with that of `like`.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.detach(), like.device_mesh, like.placements)
