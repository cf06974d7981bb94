"""Meta Networks' memory: fast weights stored under keys, read by similarity."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def attention(keys: Tensor, memory: Tensor) -> Tensor:
    """How much each key takes of each memory row: `[Q, M]`, rows summing to 1.

    A softmax over cosine similarities.

    Args:
        keys: `[Q, D]`.
        memory: `[M, D]`, the keys under which the rows were stored.
    """
    return (normalize(keys, dim=1) @ normalize(memory, dim=1).T).softmax(dim=1)
