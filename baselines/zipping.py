"""The pairs of ZipIt! (Stoica et al. 2024, arXiv:2305.03053, 4.3): channels that are alike become one, greedily."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def zipped(correlation: Tensor, networks: int, *, alpha: float, beta: float) -> Tensor:
    """Which of the channels of several networks become one.

    The two most correlated are merged, whether of one network or of two, until as many are left as one network has.
    What is merged is as much like another channel as the lesser of its two parts was, times `alpha`. A merged channel
    counts as the first network's that has a part in it. Of equals the first pair is taken.

    Args:
        correlation: float64 `[networks * channels, networks * channels]` on the CPU, symmetric, without NaN; the
            channels of the first network, of the second, and so on.
        networks: how many there are.
        alpha: 1 for no penalty on merging again; 0 for the greatest.
        beta: share of the merges that each network may have within itself, 0 to 1. With 0 it has none, as long as there
            is another pair (the authors' code allows the first one).

    Returns:
        int64 `[networks, channels]`: the number of the merged channel that each becomes a part of.
    """
    import torch

    pairing = _Pairing(correlation.numpy(), networks, alpha=alpha, beta=beta)
    count = len(correlation) // networks
    for _ in range(len(correlation) - count):
        pairing.merge_best()
    return torch.from_numpy(pairing.numbers()).reshape(networks, count)


class _Pairing:
    """What has been merged so far. Of two channels that become one, the later is gone."""

    def __init__(self, correlation: np.ndarray, networks: int, *, alpha: float, beta: float) -> None:
        import numpy as np

        size = len(correlation) // networks
        self._alpha = alpha
        self._alike = correlation.astype(np.float64)  # a copy
        np.fill_diagonal(self._alike, -np.inf)
        self._open = self._alike.copy()  # without pairs whose network has used its budget up
        self._owner = np.repeat(np.arange(networks), size)
        self._member_of = np.arange(networks * size)
        self._left = np.full(networks, int((networks - 1) * size // networks * beta + 1e-4))
        for network in range(networks):
            self._close(network)
        self._find_partners()

    def merge_best(self) -> None:
        import numpy as np

        first = int(self._likeness.argmax())
        if self._likeness[first] == -np.inf:  # budgets leave no pair
            self._open = self._alike.copy()
            self._find_partners()
            first = int(self._likeness.argmax())
        first, second = sorted((first, int(self._partner[first])))
        within = self._owner[first] == self._owner[second]
        self._member_of[self._member_of == second] = first
        for table in (self._alike, self._open):
            both = np.minimum(table[first], table[second])
            both[both > -np.inf] *= self._alpha
            table[first] = table[:, first] = both
            table[second] = table[:, second] = -np.inf
        self._owner[second] = -1
        if within:
            network = self._owner[first]
            self._left[network] -= 1
            if self._left[network] == 0:
                self._close(network)
                return self._find_partners()
        return self._find_partners_again(first, second)

    def numbers(self) -> np.ndarray:
        """Of each channel the place of its merged one among those that are left."""
        import numpy as np

        return np.unique(self._member_of, return_inverse=True)[1].astype(np.int64)

    def _close(self, network: int) -> None:
        """Where a network's budget is used up, no two of its channels become one."""
        import numpy as np

        if self._left[network] <= 0:
            own = np.flatnonzero(self._owner == network)
            self._open[np.ix_(own, own)] = -np.inf

    def _find_partners(self) -> None:
        """The first of those that are most like each channel, and how much they are."""
        self._partner = self._open.argmax(axis=1)
        self._likeness = self._open.max(axis=1)

    def _find_partners_again(self, first: int, second: int) -> None:
        """After two have become one, for those that may have another partner now."""
        import numpy as np

        changed = (self._partner == first) | (self._partner == second)
        changed[[first, second]] = True
        rows = np.flatnonzero(changed)
        self._partner[rows] = self._open[rows].argmax(axis=1)
        self._likeness[rows] = self._open[rows].max(axis=1)
        new = self._open[:, first]
        better = (new > self._likeness) | ((new == self._likeness) & (first < self._partner) & (new > -np.inf))
        self._partner[better], self._likeness[better] = first, new[better]
