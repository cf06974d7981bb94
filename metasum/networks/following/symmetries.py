"""Which channels can change places, once all that is done to them is noted.

Two channels can where the same axes hold them equally often and they lie in the same sets. So can two whole sets (the
dimensions of two attention heads, the parts of a grouped convolution), with all that goes with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from metasum.networks.following.numbers import Numbering


class Exchange(NamedTuple):
    """Channels, or blocks of them, that can change places."""

    positions: list[dict[tuple[int, int], list[int]]]
    """Of each its positions by (tensor's `id`, dimension)."""
    tied: bool
    """Whether something is computed of several of them together."""


class Symmetries:
    """Args: numbering, settled."""

    def __init__(self, numbering: Numbering) -> None:
        self._axes = list(numbering.axes)
        self._places = [_places(numbering.roots(channels)) for channels in numbering.axes.values()]
        self._held = defaultdict[int, list[tuple[int, int]]](list)  # by channel: (number of an axis, how often)
        for number, places in enumerate(self._places):
            for channel, positions in places.items():
                self._held[channel].append((number, len(positions)))
        self._sets = list[tuple[int, list[int], int | None]]()  # (number of the family, channels, owner)
        self._by_content = dict[tuple[int, tuple[int, ...]], int]()
        self._within = defaultdict[int, list[tuple[int, int]]](list)  # by channel: (number of a set, how often)
        self._owned = defaultdict[int, list[int]](list)  # by owner: numbers of sets
        for family, (sets, owners) in enumerate(numbering.families):
            rows = numbering.roots(sets).tolist()
            whose = [None] * len(rows) if owners is None else numbering.roots(owners).tolist()
            for channels, owner in zip(rows, whose, strict=True):
                self._add(family, channels, owner)

    def _add(self, family: int, channels: list[int], owner: int | None) -> None:
        content = (family, tuple(sorted(channels)))
        if content in self._by_content or set(channels) == {owner}:
            return
        number = self._by_content[content] = len(self._sets)
        self._sets.append((family, channels, owner))
        for channel, positions in _places_of(channels).items():
            self._within[channel].append((number, len(positions)))
        if owner:
            self._owned[owner].append(number)

    def singles(self) -> Iterator[Exchange]:
        """Channels that can change places one by one, all groups that an axis holds, in the order of their numbers."""
        alike = defaultdict[tuple[object, ...], list[int]](list)
        for channel in sorted(self._held.keys() - {0}):
            signature = (*self._held[channel], *self._within[channel], *self._owned.get(channel, ()))
            alike[signature].append(channel)
        for channels in alike.values():
            seen = (self._sets[number][1] for number, _ in self._within[channels[0]])
            tied = any(min(content) != max(content) for content in seen)
            yield Exchange([self._positions([channel]) for channel in channels], tied)

    def blocks(self) -> Iterator[Exchange]:
        """Sets that can change places as wholes."""
        alike = defaultdict[tuple[object, ...], list[int]](list)
        for owner, sets in sorted(self._owned.items()):
            kinds = tuple((self._sets[number][0], len(self._sets[number][1])) for number in sets)
            alike[(tuple(self._held.get(owner, ())), kinds)].append(owner)
        done = set[int]()  # that went with others
        for owners in alike.values():
            owners = [owner for owner in owners if owner not in done]
            while len(owners) > 1:
                first, *others = owners
                found = {other: pairs for other in others if (pairs := self._exchange(first, other))}
                own = next(([one for one, _ in pairs] for pairs in found.values()), [])
                found = {other: pairs for other, pairs in found.items() if [one for one, _ in pairs] == own}
                done.update(own, *([two for _, two in pairs] for pairs in found.values()))
                if any(self._held.get(channel) for channel in own):
                    theirs = [[two for _, two in pairs] for pairs in found.values()]
                    yield Exchange([self._positions(channels) for channels in (own, *theirs)], tied=True)
                owners = [owner for owner in others if owner not in found]

    def _block(self, owner: int) -> list[int]:
        """The owner and all channels of its sets, in their order."""
        return [owner, *(channel for number in self._owned[owner] for channel in self._sets[number][1])]

    def _positions(self, channels: Sequence[int]) -> dict[tuple[int, int], list[int]]:
        found = defaultdict[tuple[int, int], list[int]](list)
        for channel in channels:
            for number, _ in self._held.get(channel, ()):
                found[self._axes[number]] += self._places[number][channel]
        return dict(found)

    def _exchange(self, first: int, other: int) -> list[tuple[int, int]] | None:
        """Pairs of channels that change places when two owners' blocks do, in their order; None where they cannot.

        Where a set moves, what goes with it does, too.
        """
        moved, pairs = dict[int, int](), list[tuple[int, int]]()
        new = list(zip(self._block(first), self._block(other), strict=True))
        while new:
            for one, two in new:
                if one == two == moved.get(one, one):
                    continue
                if 0 in (one, two) or self._held.get(one) != self._held.get(two):
                    return None
                if one not in moved and two not in moved:
                    moved[one], moved[two] = two, one
                    pairs.append((one, two))
                elif moved.get(one) != two:
                    return None
            following = [self._owners_after(number, moved) for number in self._touching(moved)]
            if any(pair is None for pair in following):
                return None
            new = [pair for pair in following if pair is not None and moved.get(pair[0], pair[0]) != pair[1]]
        return pairs

    def _touching(self, channels: Iterable[int]) -> list[int]:
        """The sets that hold one of these channels, or go with one."""
        within = {number for channel in channels for number, _ in self._within.get(channel, ())}
        return sorted(within.union(*(self._owned.get(channel, ()) for channel in channels)))

    def _owners_after(self, number: int, moved: Mapping[int, int]) -> tuple[int, int] | None:
        """What goes with a set, and with the set in whose place that comes; None where there is no such place."""
        family, channels, owner = self._sets[number]
        image = self._by_content.get((family, tuple(sorted(moved.get(channel, channel) for channel in channels))))
        if image is None:
            return None
        theirs = self._sets[image][2]
        if owner is None or theirs is None:
            return 0, 0
        return (owner, theirs) if image == number or owner != theirs else None


def _places(channels: Tensor) -> dict[int, list[int]]:
    return _places_of(channels.tolist())


def _places_of(channels: Sequence[int]) -> dict[int, list[int]]:
    where = defaultdict[int, list[int]](list)
    for position, channel in enumerate(channels):
        where[channel].append(position)
    return where
