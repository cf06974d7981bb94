"""Numbers of channels, of which two can turn out to be one, and what ties them to one another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Kinds(NamedTuple):
    """What different rows, or elements, a tensor has."""

    rows: Tensor
    """In their order."""
    which: Tensor
    """Of each row of the tensor, its number among `rows`."""
    counts: Tensor
    """How often each of `rows` is there."""


def kinds_of(tensor: Tensor) -> Kinds:
    """The different rows of a matrix, or elements of a vector."""
    dim = 0 if tensor.ndim > 1 else None  # without it, it is many times faster
    found = torch.unique(tensor, dim=dim, return_inverse=True, return_counts=True)
    return Kinds(*found)


class Family(NamedTuple):
    """Sets of channels that one function treats alike, each as a whole.

    The mean over a set stays the same where its channels change places among themselves. Sets can change places with
    one another, too, where the function does to one what it does to the other.
    """

    sets: Tensor
    """int64 `[sets, n]`: channels, some perhaps several times."""
    owners: Tensor | None
    """int64 `[sets]`: the channel that goes with each set (the mean over it, the factor of it), and changes places when
    the set does; 0 where the set stays. None where nothing goes with them."""


class Numbering:
    """Numbers of channels, of which two can become one, and the axes that hold them. 0 stays where it is."""

    def __init__(self) -> None:
        self._root = torch.zeros(1, dtype=torch.long)
        self.axes: dict[tuple[int, int], Tensor] = {}
        """Channels along a dimension of a tensor, by the tensor's `id` and the dimension."""
        self.families: list[Family] = []
        self.loose: dict[int, Tensor] = {}
        """A number for each element of tensors of which it is not known yet which dimension holds channels."""

    def new(self, count: int) -> Tensor:
        start = len(self._root)
        self._root = torch.cat([self._root, torch.arange(start, start + count)])
        return torch.arange(start, start + count)

    def roots(self, channels: Tensor) -> Tensor:
        """The least of all numbers that are one with each."""
        return self._root[channels]

    def join(self, first: Tensor, second: Tensor) -> None:
        """Makes channels one, element by element of two tensors of one shape."""
        pairs = torch.stack([first.flatten(), second.flatten()])
        while True:
            ours, theirs = self._root[pairs]
            differ = ours != theirs
            if not differ.any():
                return
            pairs = torch.stack([ours[differ], theirs[differ]])
            count = len(self._root)
            codes = kinds_of(pairs.amin(0) * count + pairs.amax(0)).rows  # each pair once
            least, most = pairs = torch.stack([codes // count, codes % count])
            parents = torch.arange(len(self._root)).scatter_reduce_(0, most, least, "amin")
            while not torch.equal(above := parents[parents], parents):
                parents = above
            self._root = parents[self._root]

    def fix(self, channels: Tensor) -> None:
        """These stay where they are."""
        self.join(channels, torch.zeros_like(channels))

    def use(self, tensor_id: int, dimension: int, channels: Tensor) -> None:
        """A tensor holds these channels along a dimension; where it has been used before, they are the same."""
        self.join(self.axes.setdefault((tensor_id, dimension), channels), channels)

    def tie(self, sets: Tensor, owners: Tensor | None = None) -> None:
        """Adds a family. Sets of nothing but what stays anyway are left out."""
        some = self.roots(sets).any(dim=1)
        if some.any():
            self.families.append(Family(sets[some], None if owners is None else owners[some]))

    def settle(self) -> None:
        """Fixes what cannot be moved, once all that will be noted is noted."""
        before = None
        while before is None or not torch.equal(self._root, before):
            before = self._root
            for tensor_id, numbers in self.loose.items():
                self._settle_loose(tensor_id, numbers)
            for family in self.families:
                self._join_single(family)
                self._fix_shared(family)

    def _settle_loose(self, tensor_id: int, numbers: Tensor) -> None:
        """Finds the dimension along which a tensor's elements are of different channels; without one they stay."""
        roots = self.roots(numbers)
        met = torch.bincount(self._root, minlength=len(self._root))[roots] > 1  # the others nobody asked for
        met |= roots == 0
        far = len(self._root)
        for dimension in range(numbers.ndim):
            others = tuple(other for other in range(numbers.ndim) if other != dimension)
            low, high = roots.where(met, far).amin(others), roots.where(met, -1).amax(others)
            if bool((low >= high).all()) and low.where(high >= 0, 0).amin() < low.where(high >= 0, 0).amax():
                self.use(tensor_id, dimension, low.where(high >= 0, 0))
                return
        self.fix(numbers[met])

    def _join_single(self, family: Family) -> None:
        """What goes with a set of one channel is of that channel."""
        if family.owners is not None:
            sets, owners = self.roots(family.sets), self.roots(family.owners)
            single = (sets == sets[:, :1]).all(dim=1) & (sets[:, 0] > 0) & (owners > 0)
            self.join(sets[single, 0], owners[single])

    def _fix_shared(self, family: Family) -> None:
        """A channel in two different sets would have two places to go; so would an owner of two or two of one."""
        if len(family.sets) < 2:
            return
        sets = self.roots(family.sets)
        if bool((sets == sets[:, :1]).all()):
            sets = sets[:, :1]
        sets, which, _ = kinds_of(sets)
        count = len(self._root)
        inside = kinds_of((torch.arange(len(sets))[:, None] * count + sets).flatten())  # each channel once in each set
        found = kinds_of(inside.rows % count)
        shared = torch.isin(sets, found.rows[(found.counts > 1) & (found.rows > 0)]).any(dim=1)
        self.fix(sets[shared].flatten())
        if family.owners is not None:
            owners = self.roots(family.owners)
            pairs = kinds_of(torch.stack([which, owners], dim=1)).rows
            for part in pairs.T:
                kinds = kinds_of(part)
                self.fix(pairs[kinds.counts[kinds.which] > 1, 1])
            self.fix(owners[shared[which]])
