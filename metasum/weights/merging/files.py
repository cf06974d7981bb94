"""Merging checkpoints of any size: tensor by tensor, in pieces, from disk to disk."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metasum.config.merge import MergeConfig, factors
from metasum.errors import ArchitectureError, MetaSumError, UsageError
from metasum.machine import usable_cores
from metasum.weights.merging.checkpoint import Checkpoint, opened
from metasum.weights.merging.crew import Crew
from metasum.weights.merging.dtypes import DTYPES, FLOATS
from metasum.weights.merging.formulas import Formula, average
from metasum.weights.merging.layers import Layers, parse_layers
from metasum.weights.merging.methods import check_inputs, check_settings, method_named
from metasum.weights.merging.output import Output, writing
from metasum.weights.merging.plan import Part, Piece, pieces_of, plan
from metasum.weights.merging.reading import Reader
from metasum.weights.merging.recipes import Work, formula_for, reads

LARGEST_PIECE = 1 << 17  # entries: what is computed with it stays in a core's cache
SMALLEST_PIECE = 1 << 16
ROOM = 256 * 2**20  # bytes that all threads' pieces take, about
USUAL = dataclasses.asdict(MergeConfig())


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
    method: str,
    files: Sequence[Path | str],
    output: Path | str,
    *,
    base: Path | str | None = None,
    settings: MergeConfig | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    layers: Sequence[str] = (),
    overwrite: bool = False,
    piece: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Merged:
    """Merges checkpoints into one .safetensors file, in memory that does not grow with them.

    Args:
        method: sum, average, weighted, task-arithmetic, ties, dare or slerp.
        files: .safetensors files, indices of sharded ones, folders that hold one of either, or PyTorch files.
        output: the result; it appears whole or not at all.
        base: what the others were trained from, for the methods that work on differences from it.
        settings: what the methods leave open.
        only: patterns (as the shell's) of the parameters to merge; the others are the first file's.
        skip: patterns of those not to merge.
        layers: "PATTERN=VALUE": another scaling, position or weights for the parameters that match.
        overwrite: replace an `output` that is there.
        piece: most entries of a tensor that a thread holds at once; the result does not depend on it.
        progress: told how many of how many bytes are read.
        cancelled: asked now and then whether to stop.

    Raises:
        UsageError: a setting makes no sense, or `output` cannot be written like this.
        CheckpointError: a file is missing or damaged.
        ArchitectureError: the files do not fit together; the first such tensor is named.
        StorageError: `output` could not be written.
        MetaSumError: a value is too large for the dtype that it is to be written in.
        Cancelled: `cancelled` said so.
    """
    started = time.perf_counter()
    settings, output = settings or MergeConfig(), Path(output)
    check_settings(method, {name for name, value in dataclasses.asdict(settings).items() if value != USUAL[name]})
    check_inputs(method, files=len(files), base=base is not None)
    chosen = Layers(only, skip, parse_layers(layers, layered=method_named(method).layered, settings=settings))
    if method == "weighted":
        _check_weights(settings, chosen, len(files))
    _check_place(output, overwrite)
    with ExitStack() as stack:
        checkpoints = [stack.enter_context(opened(Path(file))) for file in files]
        start = None if base is None else stack.enter_context(opened(Path(base)))
        everything = [*checkpoints, *([start] if start else [])]
        _check_apart(output, everything)
        parts = plan(checkpoints, start, chosen, dtype=settings.dtype)
        statistics = sum(part.statistic for part in parts)
        told = _told(method, checkpoints, start, settings, only, skip, layers, statistics)
        threads = settings.threads or usable_cores()
        size = piece or _piece_size(threads, len(everything))
        weights = [part for part in parts if part.merged and not part.statistic]
        amount = _amount(parts, checkpoints, start, reads(method, settings, weights))
        tell = None if progress is None else lambda done: progress(done, amount)
        target = stack.enter_context(writing(output, {part.name: part.info for part in parts}, told))
        crew = stack.enter_context(Crew(threads, cancelled=cancelled, progress=tell))
        reader = Reader(checkpoints, start, size=size, crew=crew)
        _check_integers(parts, reader, everything, crew, size)
        formula = formula_for(method, Work(settings, chosen, weights, len(files), reader, crew, size))
        _write(parts, formula, reader, target, crew, size)
    return Merged(
        method=method,
        files=[str(file) for file in files],
        output=str(output),
        parameters=sum(part.info.entries for part in parts if part.info.code in FLOATS),
        statistics=statistics,
        bytes=output.stat().st_size,
        seconds=time.perf_counter() - started,
    )


def _check_integers(parts: Sequence[Part], reader: Reader, inputs: Sequence[Checkpoint], crew: Crew, size: int) -> None:
    """Raises ArchitectureError where files that must hold the same integers do not."""

    def compare(piece: Piece) -> None:
        chunk = reader.chunk(piece)
        first, *others = chunk.values if chunk.base is None else [*chunk.values, chunk.base]
        for values, checkpoint in zip(others, inputs[1:], strict=True):
            if not torch.equal(first, values):
                raise ArchitectureError(
                    f"{chunk.name!r}, {piece.part.info}, differs between {inputs[0].path} and {checkpoint.path}, and "
                    "integers cannot be merged; write the files dequantised, or take the first file's with "
                    f"--skip {chunk.name!r} and whatever belongs to it."
                )

    crew.spread(compare, (piece for part in parts if part.alike for piece in pieces_of(part, size)))


def _write(parts: Sequence[Part], formula: Formula, reader: Reader, target: Output, crew: Crew, size: int) -> None:
    """Computes every piece and writes it where it belongs."""

    def finish(piece: Piece) -> None:
        part = piece.part
        arithmetic = average if part.statistic else formula
        values = arithmetic(reader.chunk(piece)) if part.merged else reader.first(piece)
        stored = torch.uint8 if part.arithmetic == torch.uint8 else DTYPES[part.info.code]
        if stored != part.arithmetic:
            written = reader.buffer("written", stored)[: len(values)].copy_(values)
            _check_range(part, values, written)
            values = written
        target.write(part.name, piece.start * stored.itemsize, values.view(torch.uint8))

    crew.spread(finish, (piece for part in parts for piece in pieces_of(part, size)))


def _check_range(part: Part, values: Tensor, written: Tensor) -> None:
    """Raises MetaSumError where a finite value became infinite, or no number, in what is written."""
    if torch.finfo(written.dtype).max < torch.finfo(values.dtype).max / 2:  # bfloat16 reaches as far as float32
        lost = int(values.isfinite().sum()) - int(written.to(values.dtype).isfinite().sum())
        if lost > 0:
            raise MetaSumError(
                f"{part.name!r} has values that {str(written.dtype).removeprefix('torch.')} cannot hold; "
                "write them with --dtype bfloat16 or float32."
            )


def _piece_size(threads: int, inputs: int) -> int:
    each = ROOM // (threads * (inputs + 6) * 4)  # so many buffers a thread, most of them float32
    return min(LARGEST_PIECE, max(SMALLEST_PIECE, each // SMALLEST_PIECE * SMALLEST_PIECE))


def _amount(parts: Sequence[Part], files: Sequence[Checkpoint], base: Checkpoint | None, times: int) -> int:
    """Bytes that will be read: `times` times those of weights, once the rest."""
    amount = 0
    for part in parts:
        inputs = [*files, *([base] if base else [])]
        every = sum(file.places[part.name].info.bytes for file in inputs) if part.merged or part.alike else 0
        amount += every * (times if part.merged and not part.statistic else 1)
        amount += 0 if part.merged else files[0].places[part.name].info.bytes
    return amount


def _told(
    method: str,
    files: Sequence[Checkpoint],
    base: Checkpoint | None,
    settings: MergeConfig,
    only: Sequence[str],
    skip: Sequence[str],
    layers: Sequence[str],
    statistics: int,
) -> dict[str, str]:
    """What the result says about itself: the first file's metadata, and what was merged from what."""
    values = dataclasses.asdict(settings)
    what = {
        "method": method,
        "files": [{"name": str(file.path), "bytes": file.bytes} for file in files],
        **({"base": {"name": str(base.path), "bytes": base.bytes}} if base else {}),
        "settings": {name: values[name] for name in (*method_named(method).settings, "dtype")},
        **{name: list(texts) for name, texts in (("only", only), ("skip", skip), ("layers", layers)) if texts},
        **({"statistics": f"{statistics} tensors averaged"} if statistics else {}),
        "metasum": version("metasum"),
    }
    return {"format": "pt", **files[0].metadata, "merge": json.dumps(what, ensure_ascii=False)}


def _check_weights(settings: MergeConfig, layers: Layers, files: int) -> None:
    for weights in (factors(settings.weights), *(value for _, value in layers.settings)):
        if len(weights) != files:
            raise UsageError(
                f"weighted takes one weight for each of the {files} files, for instance --weights 0.3,0.7."
            )


def _check_place(output: Path, overwrite: bool) -> None:
    if output.suffix != ".safetensors":
        raise UsageError(f"--output {output}: the result is a .safetensors file; give it that ending.")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file.")
    if output.exists() and not overwrite:
        raise UsageError(f"--output {output} is there already; use --overwrite to replace it.")


def _check_apart(output: Path, inputs: Sequence[Checkpoint]) -> None:
    for file in (file for checkpoint in inputs for file in checkpoint.files):
        if output.exists() and output.samefile(file):
            raise UsageError(f"--output {output} is one of the files to be merged; name another one.")
