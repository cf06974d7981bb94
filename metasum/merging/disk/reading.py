"""Spans of several checkpoints in memory, in buffers that are used over and over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from metasum.merging.disk.checkpoint import Checkpoint, Place
from metasum.merging.disk.plan import Fate, Planned, Span, spans_of
from metasum.merging.disk.workers import Workers
from metasum.merging.tensors import Chunk, Part, Tensors
from metasum.weights.tensor_files.dtypes import DTYPES


class Reader:
    """Reads spans of at most `size` entries, for any number of threads."""

    def __init__(self, files: Sequence[Checkpoint], base: Checkpoint | None, *, size: int, workers: Workers) -> None:
        self._files, self._base, self._size, self._workers = files, base, size, workers
        self._own = threading.local()

    def spread(self, work: Callable[[Span], None], planned: Iterable[Planned]) -> None:
        """Calls `work` on every span of some tensors, from several threads; raises the first error."""
        self._workers.spread(work, (span for tensor in planned for span in spans_of(tensor, self._size)))

    def chunk(self, span: Span) -> Chunk:
        """The span of every file, until the thread's next; raises CheckpointError, and Cancelled where work stops."""
        name = span.planned.part.name
        values = [self._values(span, file.places[name], slot) for slot, file in enumerate(self._files)]
        base = None if self._base is None else self._values(span, self._base.places[name], len(self._files))
        return Chunk(span.planned.part, span.start, values, base)

    def first(self, span: Span) -> Tensor:
        """The span of the first file, `[n]` in the part's dtype."""
        return self._values(span, self._files[0].places[span.planned.part.name], 0)

    def _values(self, span: Span, place: Place, slot: int) -> Tensor:
        count, dtype = span.stop - span.start, span.planned.part.dtype
        values = self.buffer(slot, dtype)[:count]
        stored = torch.uint8 if dtype == torch.uint8 else DTYPES[place.info.code]
        self._workers.advance(count * stored.itemsize)
        if stored == dtype:
            place.read(span.start * stored.itemsize, values.view(torch.uint8))
            return values
        raw = self.buffer("raw", stored)[:count]
        place.read(span.start * stored.itemsize, raw.view(torch.uint8))
        return values.copy_(raw)

    def buffer(self, slot: int | str, dtype: torch.dtype) -> Tensor:
        """The calling thread's buffer for `slot`, `[size]`."""
        buffers = self._own.__dict__
        key = f"{slot} {dtype}"
        if key not in buffers:
            buffers[key] = torch.empty(self._size, dtype=dtype)
        found: Tensor = buffers[key]
        return found


class OnDisk(Tensors):
    """What a method is shown of files."""

    def __init__(self, planned: Sequence[Planned], count: int, reader: Reader) -> None:
        self._planned = {tensor.part.name: tensor for tensor in planned if tensor.fate == Fate.MERGED}
        self.parts, self.count, self._reader = [tensor.part for tensor in self._planned.values()], count, reader

    def show(self, see: Callable[[Chunk], None], parts: Sequence[Part] | None = None) -> None:
        some = self.parts if parts is None else parts
        self._reader.spread(lambda span: see(self._reader.chunk(span)), [self._planned[part.name] for part in some])
