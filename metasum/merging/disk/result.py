"""The merged file: where it may lie, what must be alike in all files, and what is written into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from metasum.errors import ArchitectureError, MetaSumError, UsageError
from metasum.merging.disk.checkpoint import Checkpoint
from metasum.merging.disk.plan import Fate, Planned, Span
from metasum.merging.disk.reading import Reader
from metasum.merging.tensors import Formula, Part
from metasum.weights.composition import average_
from metasum.weights.tensor_files.dtypes import DTYPES
from metasum.weights.tensor_files.output import Output


def check_place(output: Path, overwrite: bool) -> None:
    """Raises UsageError where `output` is no place for a new .safetensors file."""
    if output.suffix != ".safetensors":
        raise UsageError(f"--output {output}: the result is a .safetensors file; give it that ending.")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file.")
    if output.exists() and not overwrite:
        raise UsageError(f"--output {output} is there already; use --overwrite to replace it.")


def check_apart(output: Path, inputs: Sequence[Path]) -> None:
    """Raises UsageError where `output` is one of the files that are read."""
    if output.exists() and any(output.samefile(file) for file in inputs):
        raise UsageError(f"--output {output} is one of the files to be merged; name another one.")


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
            values = formula(reader.chunk(span)) if fate == Fate.MERGED else average_(reader.chunk(span).values)
        stored = torch.uint8 if part.dtype == torch.uint8 else DTYPES[info.code]
        if stored != part.dtype:
            written = reader.buffer("written", stored)[: len(values)].copy_(values)
            _check_range(part, values, written)
            values = written
        target.write(part.name, span.start * stored.itemsize, values.view(torch.uint8))

    reader.spread(finish, planned)


def _check_range(part: Part, values: Tensor, written: Tensor) -> None:
    """Raises MetaSumError where a finite value became infinite, or no number, in what is written."""
    if torch.finfo(written.dtype).max < torch.finfo(values.dtype).max / 2:  # bfloat16 reaches as far as float32
        lost = int(values.isfinite().sum()) - int(written.to(values.dtype).isfinite().sum())
        if lost > 0:
            raise MetaSumError(
                f"{part.name!r} has values that {str(written.dtype).removeprefix('torch.')} cannot hold; "
                "write them with --dtype bfloat16 or float32."
            )
