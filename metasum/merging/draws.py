"""DARE's draws: the same entries are dropped however a tensor is cut, and on however many threads.

Every tensor of every network is drawn in blocks with a generator each, seeded by what the block is.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 17  # entries


def kept_entries(start: int, count: int, *, drop_rate: float, seed: int, name: str, network: int) -> Tensor:
    """Which of a tensor's entries from `start` on stay, `[count]`, bool; each is dropped with the same chance.

    Args:
        start: the first entry.
        count: how many.
        drop_rate: the chance, in [0, 1); to the nearest of 2^32 steps.
        seed: of the merge.
        name: of the tensor.
        network: number of the network among those merged.
    """
    bound = np.uint32(min(round(drop_rate * 2**32), 2**32 - 1))
    parts = []
    for block in range(start // BLOCK, -(-(start + count) // BLOCK)):
        digest = hashlib.blake2b(f"{seed} {network} {block} {name}".encode(), digest_size=16).digest()
        draws = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(BLOCK // 2).astype("<u8", copy=False)
        first = max(start - block * BLOCK, 0)
        parts.append(draws.view("<u4")[first : start + count - block * BLOCK] >= bound)
    return torch.from_numpy(np.concatenate(parts))
