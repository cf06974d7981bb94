"""Spans of several checkpoints: read into buffers that are used over and over, compared, merged and written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metasum.errors import ArchitectureError, MetaSumError
from metasum.merging.disk.checkpoint import Checkpoint, Place
from metasum.merging.disk.plan import Fate, Planned
from metasum.merging.disk.workers import Workers
from metasum.merging.tensors import Chunk, Formula, Part, Tensors
from metasum.weights.composition import average_
from metasum.weights.tensor_files.dtypes import DTYPES
from metasum.weights.tensor_files.output import Output


class Span(NamedTuple):
    """Neighbouring entries of a tensor, few enough to hold."""

    planned: Planned
    start: int
    stop: int


def spans_of(planned: Planned, size: int) -> Iterator[Span]:
    """A tensor in spans of at most `size` entries."""
    entries = planned.part.entries
    for start in range(0, entries, size):
        yield Span(planned, start, min(start + size, entries))


class Reader:
    """Reads tensors in spans of at most `size` entries, which may differ by tensor, for any number of threads."""

    def __init__(
        self, files: Sequence[Checkpoint], base: Checkpoint | None, *, size: Callable[[Planned], int], workers: Workers
    ) -> None:
        self._files, self._base, self._size, self._workers = files, base, size, workers
        self._own = threading.local()

    def spread(self, work: Callable[[Span], None], planned: Iterable[Planned]) -> None:
        """Calls `work` on every span of some tensors, from several threads; raises the first error."""
        self._workers.spread(work, (span for tensor in planned for span in spans_of(tensor, self._size(tensor))))

    def chunk(self, span: Span) -> Chunk:
        """The span of every file, until the thread's next; raises CheckpointError, and Cancelled where work stops."""
        name = span.planned.part.name
        values = [self._values(span, file.places[name], slot) for slot, file in enumerate(self._files)]
        base = None if self._base is None else self._values(span, self._base.places[name], len(self._files))
        return Chunk(span.planned.part, span.start, values, base)

    @property
    def paths(self) -> list[Path]:
        """Of the files, the base's at the end."""
        return [file.path for file in [*self._files, *([] if self._base is None else [self._base])]]

    def first(self, span: Span) -> Tensor:
        """The span of the first file, `[n]` in the part's dtype."""
        return self._values(span, self._files[0].places[span.planned.part.name], 0)

    def _values(self, span: Span, place: Place, slot: int) -> Tensor:
        count, dtype = span.stop - span.start, span.planned.part.dtype
        values = self.buffer(slot, dtype, count)
        stored = torch.uint8 if dtype == torch.uint8 else DTYPES[place.info.code]
        self._workers.advance(count * stored.itemsize)
        if stored == dtype:
            place.read(span.start * stored.itemsize, values.view(torch.uint8))
            return values
        raw = self.buffer("raw", stored, count)
        place.read(span.start * stored.itemsize, raw.view(torch.uint8))
        return values.copy_(raw)

    def buffer(self, slot: int | str, dtype: torch.dtype, count: int) -> Tensor:
        """The calling thread's buffer for `slot`, `[count]`, which grows to the longest span and is used again."""
        buffers = self._own.__dict__
        key = f"{slot} {dtype}"
        if key not in buffers or len(buffers[key]) < count:
            buffers[key] = None  # before there is another one
            buffers[key] = torch.empty(count, dtype=dtype)
        found: Tensor = buffers[key][:count]
        return found


class OnDisk(Tensors):
    """What a method is shown of files."""

    def __init__(self, planned: Sequence[Planned], count: int, reader: Reader) -> None:
        self._planned = {tensor.part.name: tensor for tensor in planned if tensor.fate == Fate.MERGED}
        self.parts, self.count, self._reader = [tensor.part for tensor in self._planned.values()], count, reader

    def show(self, see: Callable[[Chunk], None], parts: Sequence[Part] | None = None) -> None:
        some = self.parts if parts is None else parts
        self._reader.spread(lambda span: see(self._reader.chunk(span)), [self._planned[part.name] for part in some])


def check_integers(planned: Sequence[Planned], reader: Reader, inputs: Sequence[Checkpoint]) -> None:
    """Raises ArchitectureError where files that must hold the same integers do not."""

    def compare(span: Span) -> None:
        chunk = reader.chunk(span)
        first, *others = chunk.values if chunk.base is None else [*chunk.values, chunk.base]
        for values, checkpoint in zip(others, inputs[1:], strict=True):
            if not torch.equal(first, values):
                raise ArchitectureError(
                    f"{chunk.part.name!r}, {span.planned.info}, differs between {inputs[0].path} and "
                    f"{checkpoint.path}, and integers cannot be merged; write the files dequantised, or take the first "
                    f"file's with --skip {chunk.part.name!r} and whatever belongs to it."
                )

    reader.spread(compare, [tensor for tensor in planned if tensor.fate == Fate.COMPARED])


def write(planned: Sequence[Planned], formula: Formula, reader: Reader, target: Output) -> None:
    """Computes every span and writes it where it belongs."""

    def finish(span: Span) -> None:
        part, info, fate = span.planned
        if fate in (Fate.TAKEN, Fate.COMPARED):
            values = reader.first(span)
        else:
            chunk = reader.chunk(span)
            finite = _check_numbers(chunk, reader)
            values = formula(chunk) if fate == Fate.MERGED else average_(chunk.values)
            if not values.sum().isfinite():  # quick, and right unless the sum alone is too large
                _check_result(values, part, finite=finite)
        stored = torch.uint8 if part.dtype == torch.uint8 else DTYPES[info.code]
        if stored != part.dtype:
            written = reader.buffer("written", stored, len(values)).copy_(values)
            _check_range(part, values, written)
            values = written
        target.write(part.name, span.start * stored.itemsize, values.view(torch.uint8))

    reader.spread(finish, planned)


def _check_numbers(chunk: Chunk, reader: Reader) -> bool:
    """Whether all values of all files are finite; raises MetaSumError where one is NaN, and names its file.

    What is infinite may stay so: attention masks are.
    """
    finite = True
    every: list[Tensor] = [*chunk.values, *([] if chunk.base is None else [chunk.base])]
    for path, values in zip(reader.paths, every, strict=True):
        if values.sum().isfinite():  # quick, and right unless the sum alone is too large
            continue
        if values.isnan().any():
            raise MetaSumError(f"{path}: {chunk.part.name!r} holds NaN, and no network comes of that.")
        finite = finite and bool(values.isfinite().all())
    return finite


def _check_result(values: Tensor, part: Part, *, finite: bool) -> None:
    """Raises MetaSumError where a merged value is NaN, or infinite where all files' are finite."""
    if values.isnan().any() or (finite and not values.isfinite().all()):
        raise MetaSumError(
            f"{part.name!r} would hold NaN or infinite numbers: this method makes them of the files' finite ones."
        )


def _check_range(part: Part, values: Tensor, written: Tensor) -> None:
    """Raises MetaSumError where a finite value became infinite, or no number, in what is written."""
    if torch.finfo(written.dtype).max < torch.finfo(values.dtype).max / 2:  # bfloat16 reaches as far as float32
        lost = int(values.isfinite().sum()) - int(written.to(values.dtype).isfinite().sum())
        if lost > 0:
            raise MetaSumError(
                f"{part.name!r} has values that {str(written.dtype).removeprefix('torch.')} cannot hold; "
                "write them with --dtype bfloat16 or float32."
            )
