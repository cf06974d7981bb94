"""Merging checkpoints of any size: tensor by tensor, in spans, from disk to disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from metasum import __version__
from metasum.errors import UsageError
from metasum.files import json_text
from metasum.merging import METHODS
from metasum.merging.disk.checkpoint import Checkpoint, opened
from metasum.merging.disk.config import MergeConfig
from metasum.merging.disk.plan import Fate, plan
from metasum.merging.disk.sections import Section, write_sections
from metasum.merging.method import Method
from metasum.merging.tensors import TensorMethod
from metasum.results.merge import MergeResult
from metasum.weights.tensor_files.dtypes import FLOATS
from metasum.weights.tensor_files.output import writing


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
) -> MergeResult:
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
        >>> from metasum.merging.ties import TIES
        >>> files = ["a.safetensors", "b.safetensors"]
        >>> result = merge_files(TIES(density=0.3), files, "both.safetensors", base="start.safetensors")

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
        method.check_layers([tensor.part.name for tensor in planned if tensor.info.code in FLOATS])
        statistics = sum(tensor.fate == Fate.AVERAGED for tensor in planned)
        told = _told(method, checkpoints, start, settings, statistics)
        target = stack.enter_context(writing(output, {t.part.name: t.info for t in planned}, told))
        section = Section(method, checkpoints, start, planned)
        write_sections([section], target, threads=settings.threads, progress=progress, cancelled=cancelled)
    return MergeResult(
        method=method.name,
        files=tuple(str(file) for file in files),
        output=str(output),
        parameters=sum(tensor.info.entries for tensor in planned if tensor.info.code in FLOATS),
        statistics=statistics,
        bytes=output.stat().st_size,
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        notes=tuple(checkpoint.note for checkpoint in everything if checkpoint.note) or None,
    )


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


def _for_files(method: Method, files: int, base: bool) -> TensorMethod:
    """The method; raises UsageError where it needs something else than so many files, with or without a base."""
    method.check_one_network()
    method.check(files, what="files")
    method = method.on_files()
    if not isinstance(method, TensorMethod):
        raise UsageError(
            f"{method.name} needs {' and '.join(method.needs())}, more than files hold; add --model FILE.py:FUNCTION, "
            f"which makes the network, and --images; for finished runs there is `metasum sum --operator {method.name}`."
        )
    if method.needs_base and not base:
        raise UsageError(f"{method.name} needs --base FILE: the model that the others were trained from.")
    if base and not (method.needs_base or method.takes_base):
        raise UsageError(f"{method.name} takes no --base.")
    return method


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
        "metasum": __version__,
    }
    return {"format": "pt", **files[0].metadata, "merge": json_text(what, ensure_ascii=False)}
