"""Merging checkpoints of any size: tensor by tensor, in spans, from disk to disk."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metasum.errors import ArchitectureError, MetaSumError, UsageError
from metasum.machine import usable_cores
from metasum.merging import METHODS
from metasum.merging.disk.checkpoint import Checkpoint, opened
from metasum.merging.disk.config import MergeConfig
from metasum.merging.disk.plan import Fate, Planned, Span, plan
from metasum.merging.disk.reading import OnDisk, Reader
from metasum.merging.disk.workers import Workers
from metasum.merging.method import Formula, Method, Part, TensorMethod
from metasum.weights.composition import average_
from metasum.weights.tensor_files.dtypes import DTYPES, FLOATS
from metasum.weights.tensor_files.output import Output, check_apart, check_place, writing

LARGEST_SPAN = 1 << 17  # entries: what is computed with it stays in a core's cache
SMALLEST_SPAN = 1 << 16
ROOM = 256 * 2**20  # bytes that all threads' spans take, about


class Merged(NamedTuple):
    """What was done."""

    method: str
    files: list[str]
    output: str
    parameters: int
    """Floating-point entries of the result."""
    statistics: int
    """Tensors of running means and variances, which were averaged: they are no weights."""
    bytes: int
    """Of the result."""
    seconds: float


def merge_files(
    method: Method | str,
    files: Sequence[Path | str],
    output: Path | str,
    *,
    base: Path | str | None = None,
    settings: MergeConfig | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Merged:
    """Merges checkpoints into one .safetensors file, in memory that does not grow with them.

    Args:
        method: for instance `TIES(density=0.3)`, or the name of one whose settings stay at their defaults.
        files: .safetensors files, indices of sharded ones, folders that hold one of either, or PyTorch files.
        output: the result; it appears whole or not at all.
        base: what the others were trained from, for the methods that work on differences from it.
        settings: which parameters are merged, what is written, and on how many threads.
        overwrite: replace an `output` that is there.
        progress: told how many of how many bytes are read.
        cancelled: asked now and then whether to stop.

    Example:
        >>> merge_files(TIES(density=0.3), ["a.safetensors", "b.safetensors"], "both.safetensors", base="start.pt")

    Raises:
        UsageError: a setting makes no sense, the method needs more than files, or `output` cannot be written like this.
        CheckpointError: a file is missing or damaged.
        ArchitectureError: the files do not fit together; the first such tensor is named.
        StorageError: `output` could not be written.
        MetaSumError: a value is too large for the dtype that it is to be written in.
        Cancelled: `cancelled` said so.
    """
    started = time.perf_counter()
    settings, output = settings or MergeConfig(), Path(output)
    method = _for_files(METHODS.named(method)() if isinstance(method, str) else method, len(files), base is not None)
    check_place(output, overwrite)
    with ExitStack() as stack:
        checkpoints = [stack.enter_context(opened(Path(file))) for file in files]
        start = None if base is None else stack.enter_context(opened(Path(base)))
        everything = [*checkpoints, *([start] if start else [])]
        check_apart(output, [file for checkpoint in everything for file in checkpoint.files])
        planned = plan(checkpoints, start, settings)
        parts = [tensor.part for tensor in planned if tensor.fate == Fate.MERGED]
        method.check_layers([tensor.part.name for tensor in planned if tensor.info.code in FLOATS])
        statistics = sum(tensor.fate == Fate.AVERAGED for tensor in planned)
        told = _told(method, checkpoints, start, settings, statistics)
        threads = settings.threads or usable_cores()
        size = (
            max([1, *(part.entries for part in parts)])
            if method.whole_tensors
            else _span_size(threads, len(everything))
        )
        amount = _amount(planned, everything, method.readings(parts))
        tell = None if progress is None else lambda done: progress(done, amount)
        target = stack.enter_context(writing(output, {t.part.name: t.info for t in planned}, told))
        workers = stack.enter_context(Workers(threads, cancelled=cancelled, progress=tell))
        reader = Reader(checkpoints, start, size=size, workers=workers)
        _check_integers(planned, reader, everything)
        _write(planned, method.formula(OnDisk(planned, len(files), reader)), reader, target)
    return Merged(
        method=method.name,
        files=[str(file) for file in files],
        output=str(output),
        parameters=sum(tensor.info.entries for tensor in planned if tensor.info.code in FLOATS),
        statistics=statistics,
        bytes=output.stat().st_size,
        seconds=time.perf_counter() - started,
    )


def _for_files(method: Method, files: int, base: bool) -> TensorMethod:
    """The method; raises UsageError where it needs something else than so many files, with or without a base."""
    method.check(files, what="files")
    if not isinstance(method, TensorMethod):
        raise UsageError(
            f"{method.name} needs {' and '.join(method.needs())}, more than files hold; for finished runs there is "
            f"`metasum sum --operator {method.name}`."
        )
    if method.needs_base and not base:
        raise UsageError(f"{method.name} needs --base FILE: the model that the others were trained from.")
    if base and not method.needs_base:
        raise UsageError(f"{method.name} takes no --base.")
    return method


def _check_integers(planned: Sequence[Planned], reader: Reader, inputs: Sequence[Checkpoint]) -> None:
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


def _write(planned: Sequence[Planned], formula: Formula, reader: Reader, target: Output) -> None:
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


def _span_size(threads: int, inputs: int) -> int:
    each = ROOM // (threads * (inputs + 6) * 4)  # so many buffers a thread, most of them float32
    return min(LARGEST_SPAN, max(SMALLEST_SPAN, each // SMALLEST_SPAN * SMALLEST_SPAN))


def _amount(planned: Sequence[Planned], inputs: Sequence[Checkpoint], times: int) -> int:
    """Bytes that will be read: `times` times those of weights, and integers that are compared once more."""
    amount = 0
    for tensor in planned:
        sizes = [file.places[tensor.part.name].info.bytes for file in inputs[: tensor.read_from(len(inputs))]]
        amount += sum(sizes) * (times if tensor.fate == Fate.MERGED else 1)
        amount += sizes[0] if tensor.fate == Fate.COMPARED else 0
    return amount


def _told(
    method: Method, files: Sequence[Checkpoint], base: Checkpoint | None, settings: MergeConfig, statistics: int
) -> dict[str, str]:
    """What the result says about itself: the first file's metadata, and what was merged from what."""
    chosen: dict[str, Any] = {"only": settings.only, "skip": settings.skip, "layers": method.layers}
    given: dict[str, Any] = dataclasses.asdict(method.config) | ({"seed": method.seed} if method.random else {})
    what = {
        "method": method.name,
        "files": [{"name": str(file.path), "bytes": file.bytes} for file in files],
        **({"base": {"name": str(base.path), "bytes": base.bytes}} if base else {}),
        "settings": {**given, "dtype": settings.dtype},
        **{name: value for name, value in chosen.items() if value},
        **({"statistics": f"{statistics} tensors averaged"} if statistics else {}),
        "metasum": version("metasum"),
    }
    return {"format": "pt", **files[0].metadata, "merge": json.dumps(what, ensure_ascii=False)}
