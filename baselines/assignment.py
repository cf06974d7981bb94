"""Assignment problems: which channel of one network comes to which place of another."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 256  # channels from which a problem takes longer (4 ms) than handing it to a thread


def best_order(gain: Tensor) -> Tensor:
    """The permutation with the largest total gain.

    Args:
        gain: `[channels, channels]`; entry (i, j) is gained where channel j comes to place i.

    Returns:
        int64 `[channels]` on the CPU: place i takes the channel with that number. Of several best ones SciPy's first,
        always the same for the same numbers.

    Raises:
        DivergenceError: a gain is NaN or infinite.
    """
    import torch
    from scipy.optimize import linear_sum_assignment

    from metasum.errors import DivergenceError

    if not bool(gain.isfinite().all()):
        raise DivergenceError("the networks' channels cannot be matched: weights are NaN or infinite.")
    cost = torch.empty(gain.shape, dtype=torch.float64).copy_(gain.detach()).neg_()  # one copy, which may be a gigabyte
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def best_orders(gains: Sequence[Tensor]) -> list[Tensor]:
    """`best_order` of each; large ones at the same time on all usable cores, for SciPy gives up Python's lock."""
    from metasum.machine import usable_cores

    if sum(len(gain) >= LARGE for gain in gains) < 2 or usable_cores() == 1:
        return [best_order(gain) for gain in gains]
    with ThreadPoolExecutor(usable_cores()) as threads:
        return list(threads.map(best_order, gains))
