"""Pieces of several checkpoints in memory, in buffers that are used over and over."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metasum.weights.merging.checkpoint import Checkpoint, Place
from metasum.weights.merging.crew import Crew
from metasum.weights.merging.dtypes import DTYPES
from metasum.weights.merging.plan import Piece


class Chunk(NamedTuple):
    """The same piece of every file; whoever is given it may write into it, until the thread's next piece."""

    name: str
    start: int
    """Of its first entry within the tensor."""
    values: list[Tensor]
    """One for each file: `[n]`, in the part's arithmetic."""
    base: Tensor | None
    """The base's, `[n]`."""


class Reader:
    """Reads pieces of at most `size` entries, for any number of threads."""

    def __init__(self, files: Sequence[Checkpoint], base: Checkpoint | None, *, size: int, crew: Crew) -> None:
        self._files, self._base, self._size, self._crew = files, base, size, crew
        self._own = threading.local()

    def chunk(self, piece: Piece) -> Chunk:
        """The piece of every file; raises CheckpointError, and Cancelled where the work is to stop."""
        name = piece.part.name
        values = [self._values(piece, file.places[name], slot) for slot, file in enumerate(self._files)]
        base = None if self._base is None else self._values(piece, self._base.places[name], len(self._files))
        return Chunk(name, piece.start, values, base)

    def first(self, piece: Piece) -> Tensor:
        """The piece of the first file, `[n]` in the part's arithmetic."""
        return self._values(piece, self._files[0].places[piece.part.name], 0)

    def _values(self, piece: Piece, place: Place, slot: int) -> Tensor:
        count, arithmetic = piece.stop - piece.start, piece.part.arithmetic
        values = self.buffer(slot, arithmetic)[:count]
        stored = torch.uint8 if arithmetic == torch.uint8 else DTYPES[place.info.code]
        self._crew.advance(count * stored.itemsize)
        if stored == arithmetic:
            place.read(piece.start * stored.itemsize, values.view(torch.uint8))
            return values
        raw = self.buffer("raw", stored)[:count]
        place.read(piece.start * stored.itemsize, raw.view(torch.uint8))
        return values.copy_(raw)

    def buffer(self, slot: int | str, dtype: torch.dtype) -> Tensor:
        """The calling thread's buffer for `slot`, `[size]`."""
        buffers = self._own.__dict__
        key = f"{slot} {dtype}"
        if key not in buffers:
            buffers[key] = torch.empty(self._size, dtype=dtype)
        found: Tensor = buffers[key]
        return found
