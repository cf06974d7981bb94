"""A merged file is written in sections: tensors that one method merges from the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from metasum.machine import usable_cores
from metasum.merging.disk.checkpoint import Checkpoint
from metasum.merging.disk.plan import Fate, Planned
from metasum.merging.tensors import TensorMethod
from metasum.weights.tensor_files.output import Output

LARGEST_SPAN = 1 << 18  # entries: half of it takes a tenth longer, for all the calls; twice as much is no quicker
SMALLEST_SPAN = 1 << 16
ROOM = 256 * 2**20  # bytes that all threads' spans take, about


class Section(NamedTuple):
    """Tensors of the result, one method, and where it reads them."""

    method: TensorMethod
    files: Sequence[Checkpoint]
    """Of the networks; their places are named as the result names its tensors."""
    base: Checkpoint | None
    planned: Sequence[Planned]

    @property
    def inputs(self) -> list[Checkpoint]:
        """Every checkpoint that is read, the base last."""
        return [*self.files, *([self.base] if self.base else [])]

    @property
    def amount(self) -> int:
        """Bytes that will be read: weights as often as the method does, and integers that are compared twice."""
        times = self.method.readings([tensor.part for tensor in self.planned if tensor.fate == Fate.MERGED])
        inputs, amount = self.inputs, 0
        for tensor in self.planned:
            sizes = [file.places[tensor.part.name].info.bytes for file in inputs[: tensor.read_from(len(inputs))]]
            amount += sum(sizes) * (times if tensor.fate == Fate.MERGED else 1)
            amount += sizes[0] if tensor.fate == Fate.COMPARED else 0
        return amount

    def span_size(self, threads: int) -> Callable[[Planned], int]:
        """Most entries of a tensor that each of so many threads holds at once of each input."""
        each = ROOM // (threads * (len(self.inputs) + 6) * 4)  # so many buffers a thread, most of them float32
        size = min(LARGEST_SPAN, max(SMALLEST_SPAN, each // SMALLEST_SPAN * SMALLEST_SPAN))

        def of_tensor(planned: Planned) -> int:
            whole = planned.fate == Fate.MERGED and self.method.needs_whole(planned.part)
            return max(1, planned.part.entries) if whole else size

        return of_tensor


def write_sections(
    sections: Sequence[Section],
    target: Output,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Merges one section after the other into an open file.

    Args:
        sections: of the file; together they have all its tensors.
        target: the file.
        threads: that merge [default: the number of usable cores].
        progress: told how many of how many bytes are read.
        cancelled: asked now and then whether to stop.

    Raises:
        CheckpointError: a file cannot be read.
        ArchitectureError: integers differ between files that must hold the same.
        MetaSumError: a value is too large for the dtype that it is to be written in.
        Cancelled: `cancelled` said so.
    """
    from metasum.merging.disk.spans import OnDisk, Reader, check_integers, write
    from metasum.merging.disk.workers import Workers

    threads = threads or usable_cores()
    amount = sum(section.amount for section in sections)
    tell = None if progress is None else lambda done: progress(done, amount)
    with Workers(threads, cancelled=cancelled, progress=tell) as workers:
        for section in sections:
            reader = Reader(section.files, section.base, size=section.span_size(threads), workers=workers)
            check_integers(section.planned, reader, section.inputs)
            formula = section.method.formula(OnDisk(section.planned, len(section.files), reader))
            write(section.planned, formula, reader, target)
