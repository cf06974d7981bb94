"""Merging as a YAML file of mergekit's says, from disk to disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from metasum import __version__
from metasum.files import json_text
from metasum.merging.disk.checkpoint import Checkpoint, opened
from metasum.merging.disk.config import MergeConfig
from metasum.merging.disk.files import check_apart, check_place
from metasum.merging.disk.plan import Fate
from metasum.merging.disk.sections import Section, write_sections
from metasum.merging.mergekit.config import Asked, read_config
from metasum.merging.mergekit.folder import WEIGHTS, check_donor, check_folder, fill, new_folder
from metasum.merging.mergekit.planning import sections_of
from metasum.results.merge import MergeResult
from metasum.weights.tensor_files.dtypes import FLOATS, TensorInfo
from metasum.weights.tensor_files.output import writing


def merge_config(
    config: Path | str,
    output: Path | str,
    *,
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> MergeResult:
    """Merges models as a YAML file of mergekit's says, in memory that does not grow with them.

    Args:
        config: the file; models in it are folders or files, seen from the current folder.
        output: a .safetensors file, or else a folder that is made, with a configuration and the tokenizer's files; it
            appears whole or not at all.
        seed: of what DARE and DELLA draw.
        threads: that merge [default: the number of usable cores].
        overwrite: replace an `output` that is there, where it is a file, or a folder that was merged so.
        progress: told how many of how many bytes are read.
        cancelled: asked now and then whether to stop.

    Example:
        >>> result = merge_config("ties.yml", "merged")  # a folder that transformers reads
        >>> result = merge_config("ties.yml", "merged.safetensors")

    Raises:
        UsageError: the file asks for what cannot be done here, or `output` cannot be written like this.
        CheckpointError: a model is missing or damaged.
        ArchitectureError: the models do not fit together; the first such tensor is named.
        StorageError: `output` could not be written.
        MetaSumError: a value is too large for the dtype that it is to be written in.
        Cancelled: `cancelled` said so.
    """
    started, output = time.perf_counter(), Path(output)
    asked = read_config(Path(config))
    settings = MergeConfig(dtype=asked.dtype, threads=threads)  # type: ignore[arg-type]  # read_config has checked it
    in_file = output.suffix == ".safetensors"
    if in_file:
        check_place(output, overwrite)
    else:
        check_folder(output, overwrite=overwrite)
    description = None if in_file else check_donor(asked)
    with ExitStack() as stack:
        checkpoints = {model: stack.enter_context(opened(model)) for model in asked.models}
        files = [Path(config), *(file for own in checkpoints.values() for file in own.files)]
        check_apart(output if in_file else output / WEIGHTS, files)
        sections = sections_of(asked, checkpoints, settings, seed=seed)
        folder = None if in_file else stack.enter_context(new_folder(output, overwrite=overwrite))
        place = folder / WEIGHTS if folder else output
        infos = {tensor.part.name: tensor.info for section in sections for tensor in section.planned}
        with writing(place, infos, _told(asked, checkpoints, seed)) as target:
            write_sections(sections, target, threads=threads, progress=progress, cancelled=cancelled)
        if folder:
            fill(folder, asked, description)
        size = place.stat().st_size
    return _result(asked, checkpoints, sections, infos, output=output, size=size, started=started)


def _told(asked: Asked, checkpoints: Mapping[Path, Checkpoint], seed: int) -> dict[str, str]:
    """What the result says about itself: the donor's metadata, and what was merged how."""
    what = {
        "method": asked.method,
        "files": [{"name": str(model), "bytes": own.bytes} for model, own in checkpoints.items()],
        "config": asked.text,
        "settings": {"dtype": asked.dtype, "seed": seed},
        "metasum": __version__,
    }
    first = checkpoints.get(asked.donor, checkpoints[asked.models[0]])
    return {"format": "pt", **first.metadata, "merge": json_text(what, ensure_ascii=False)}


def _result(
    asked: Asked,
    checkpoints: Mapping[Path, Checkpoint],
    sections: list[Section],
    infos: Mapping[str, TensorInfo],
    *,
    output: Path,
    size: int,
    started: float,
) -> MergeResult:
    notes = [*asked.notes, *(own.note for own in checkpoints.values() if own.note)]
    return MergeResult(
        method=asked.method,
        files=tuple(str(model) for model in checkpoints),
        output=str(output),
        parameters=sum(info.entries for info in infos.values() if info.code in FLOATS),
        statistics=sum(tensor.fate == Fate.AVERAGED for section in sections for tensor in section.planned),
        bytes=size,
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        notes=tuple(notes) or None,
    )
