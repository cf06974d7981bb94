"""Which channels can change places, once all that is done to them is noted.

Two channels can where the same axes hold them equally often and they lie in the same sets. So can two whole sets (the
dimensions of two attention heads, the parts of a grouped convolution), with all that goes with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from metasum.networks.following.numbers import Numbering

Exchange = list[dict[tuple[int, int], list[int]]]
"""Channels, or blocks, that can change places: of each its positions by (tensor's `id`, dimension)."""


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
        if content in self._by_content:
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
            yield [self._positions([channel]) for channel in channels]

    def blocks(self) -> Iterator[Exchange]:
        """Sets that can change places as wholes."""
        alike = defaultdict[tuple[object, ...], list[int]](list)
        for owner, sets in sorted(self._owned.items()):
            kinds = tuple((self._sets[number][0], len(self._sets[number][1])) for number in sets)
            alike[(tuple(self._held.get(owner, ())), kinds)].append(owner)
        for owners in alike.values():
            while len(owners) > 1:
                first = owners[0]
                found = [first, *(other for other in owners[1:] if self._exchangeable(first, other))]
                if len(found) > 1:
                    exchange = [self._positions(list(dict.fromkeys(self._block(owner)))) for owner in found]
                    if exchange[0]:
                        yield exchange
                owners = [owner for owner in owners if owner not in found]

    def _block(self, owner: int) -> list[int]:
        """The owner and all channels of its sets, in their order."""
        return [owner, *(channel for number in self._owned[owner] for channel in self._sets[number][1])]

    def _positions(self, channels: Sequence[int]) -> dict[tuple[int, int], list[int]]:
        found = defaultdict[tuple[int, int], list[int]](list)
        for channel in channels:
            for number, _ in self._held.get(channel, ()):
                found[self._axes[number]] += self._places[number][channel]
        return dict(found)

    def _exchangeable(self, first: int, other: int) -> bool:
        """Whether the two owners' blocks can change places, channel by channel in their order."""
        moved = dict[int, int]()
        for one, two in zip(self._block(first), self._block(other), strict=True):
            if moved.setdefault(one, two) != two or moved.setdefault(two, one) != one:
                return False
        moved = {one: two for one, two in moved.items() if one != two}
        if 0 in moved or any(self._held.get(one) != self._held.get(two) for one, two in moved.items()):
            return False
        numbers = {number for channel in moved for number, _ in self._within.get(channel, ())}
        numbers |= {number for channel in moved for number in self._owned.get(channel, ())}
        return all(self._stays_a_set(number, moved) for number in numbers)

    def _stays_a_set(self, number: int, moved: Mapping[int, int]) -> bool:
        family, channels, owner = self._sets[number]
        image = self._by_content.get((family, tuple(sorted(moved.get(channel, channel) for channel in channels))))
        if image is None:
            return False
        if owner is not None and moved.get(owner, owner) == owner:
            return image == number
        return owner is None or self._sets[image][2] == moved.get(owner, owner)


def _places(channels: Tensor) -> dict[int, list[int]]:
    return _places_of(channels.tolist())


def _places_of(channels: Sequence[int]) -> dict[int, list[int]]:
    where = defaultdict[int, list[int]](list)
    for position, channel in enumerate(channels):
        where[channel].append(position)
    return where
