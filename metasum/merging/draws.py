"""DARE's and DELLA's draws: the same entries are dropped however a tensor is cut, and on however many threads.

Every tensor of every network is drawn in blocks with a generator each, seeded by what the block is.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 17  # entries


def draws(start: int, count: int, *, seed: int, name: str, network: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """A number for each of a tensor's entries from `start` on, `[count]`, uint32, all equally likely.

    Args:
        start: the first entry.
        count: how many.
        seed: of the merge.
        name: of the tensor.
        network: number of the network among those merged.
    """
    parts = []
    for block in range(start // BLOCK, -(-(start + count) // BLOCK)):
        digest = hashlib.blake2b(f"{seed} {network} {block} {name}".encode(), digest_size=16).digest()
        drawn = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(BLOCK // 2).astype("<u8", copy=False)
        first = max(start - block * BLOCK, 0)
        parts.append(drawn.view("<u4")[first : start + count - block * BLOCK])
    return np.concatenate(parts)


def kept_entries(start: int, count: int, *, drop_rate: float, seed: int, name: str, network: int) -> Tensor:
    """Which entries stay, `[count]`, bool, each dropped with the same chance.

    `drop_rate` is in [0, 1), to the nearest of 2^32 steps. The other arguments are those of `draws`.
    """
    bound = np.uint32(min(round(drop_rate * 2**32), 2**32 - 1))
    return torch.from_numpy(draws(start, count, seed=seed, name=name, network=network) >= bound)
