"""Checkpoints of a network of one's own merged into one file, by any method."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metasum import __version__
from metasum.errors import UsageError
from metasum.files import json_text
from metasum.merging.disk.config import MergeConfig
from metasum.merging.disk.files import check_apart
from metasum.merging.endpoints import WideningMethod
from metasum.merging.method import Method
from metasum.modules.given import networks_of
from metasum.modules.merging import merge_by
from metasum.modules.tasks import MergedTasks
from metasum.results.merge import MergeResult
from metasum.run.own_networks import Note, OwnNetwork, check_images
from metasum.weights.statistics import normalisers
from metasum.weights.storage import save_weights


def merge_checkpoints(
    method: Method,
    files: Sequence[Path],
    output: Path,
    *,
    own: OwnNetwork,
    images: Sequence[Path] = (),
    base: Path | None = None,
    settings: MergeConfig | None = None,
    note: Note = lambda _: None,
) -> MergeResult:
    """Merges checkpoints of a network of one's own into one .safetensors file; every method can be taken.

    Where the networks keep something (`own.keep`), a file is left for each, with its own of that: see `places_of`.

    Args:
        method: any that leaves the architecture as it is.
        files: the checkpoints.
        output: the result, which is replaced where it is there (see `check_place`); it appears whole or not at all.
        own: the network, or networks, and what they keep.
        images: a .npz file for each checkpoint, of what it was trained on; batch-norm statistics are recomputed on all
            of them.
        base: what the others were trained from, for the methods that work on differences from it.
        settings: which parameters are merged, and the dtype that is written.
        note: hears what was taken out of a file, or left off its names.

    Raises:
        UsageError: the method needs images or a base that are not there, or makes another architecture.
        CheckpointError: a file is missing or damaged.
        ArchitectureError: it does not fit the network.
    """
    started, settings = time.perf_counter(), settings or MergeConfig()
    places = places_of(output, len(files) if own.keep else 1)
    for place in places:
        check_apart(place, [*files, *images, *([] if base is None else [base])])
    _check(method, files, images, base, settings)
    notes: list[str] = []

    def told(sentence: str) -> None:
        notes.append(sentence)
        note(sentence)

    networks = own.load(files, told)
    start = None if base is None else own.base(base, told)
    data = [own.data(path, "train", network) for path, network in zip(images, networks, strict=False)]
    if not data and normalisers(networks[0]):
        told("batch-norm statistics are the mean of the checkpoints' own, seldom good; --images has them recomputed.")
    put_back = partial(_put_back, first=networks[0], settings=settings)
    ready = networks_of(networks, fewest=1)
    merged = merge_by(method, ready, images=data or None, base=start, keep=own.keep, before_statistics=put_back)
    tasks = [merged.for_task(index) for index in range(len(files))] if isinstance(merged, MergedTasks) else [merged]
    put_back(tasks[0])
    states = [_in_dtype(task.state_dict(), settings.dtype) for task in tasks]
    for place, state in zip(places, states, strict=True):
        save_weights(place, state, metadata=_metadata(method, files, images, base, settings))
    if own.keep:
        for place, file in zip(places, files, strict=True):
            told(f"{place} is the network of {file}: what was merged, and its own {', '.join(own.keep)}.")
    return MergeResult(
        method=method.name,
        files=tuple(map(str, files)),
        output=str(places[0]),
        outputs=tuple(map(str, places)) if own.keep else None,
        parameters=sum(own.numel() for state in states for own in state.values() if own.is_floating_point()),
        bytes=sum(place.stat().st_size for place in places),
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        notes=tuple(notes) or None,
    )


def places_of(output: Path, count: int) -> list[Path]:
    """Where a merge leaves its networks: `output`; of several both-1.safetensors, both-2.safetensors, … beside it."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]


def _check(
    method: Method, files: Sequence[Path], images: Sequence[Path], base: Path | None, settings: MergeConfig
) -> None:
    """Raises UsageError for what can be known before a file is read."""
    method.check(len(files), what="files")
    if isinstance(method, WideningMethod):
        raise UsageError(f"{method.name} makes a network of another architecture, which --model does not make.")
    method.check_one_network()
    check_images(images, files)
    if method.needs_images and not images:
        raise UsageError(
            f"{method.name} looks at data: give --images, a .npz file of what each checkpoint was trained on, with "
            "commas between them."
        )
    if method.needs_base and base is None:
        raise UsageError(f"{method.name} needs --base FILE: the model that the others were trained from.")
    if base is not None and not method.needs_base:
        raise UsageError(f"{method.name} takes no --base.")
    if settings.threads is not None:
        raise UsageError("--threads says nothing with --model: the networks are merged in memory, by PyTorch.")


def _put_back(merged: nn.Module, first: nn.Module, settings: MergeConfig) -> None:
    """Gives `merged` the first network's tensors where patterns say so."""
    state = merged.state_dict()
    settings.check_patterns(state)
    for name, own in first.state_dict().items():
        if isinstance(own, Tensor) and not settings.merges(name):
            state[name].copy_(own)


def _in_dtype(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The tensors as they are written."""
    if dtype == "keep":
        return dict(state)
    kind = getattr(torch, dtype)
    return {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _metadata(
    method: Method, files: Sequence[Path], images: Sequence[Path], base: Path | None, settings: MergeConfig
) -> dict[str, str]:
    """What the result says about itself: what was merged from what, and how."""
    given: dict[str, Any] = dataclasses.asdict(method.config) | ({"seed": method.seed} if method.random else {})
    what = {
        "method": method.name,
        "files": [{"name": str(file), "bytes": _size(file)} for file in files],
        **({"base": {"name": str(base), "bytes": _size(base)}} if base else {}),
        **({"images": [str(path) for path in images]} if images else {}),
        "settings": given | {"dtype": settings.dtype},
        "metasum": __version__,
    }
    return {"format": "pt", "merge": json_text(what, ensure_ascii=False)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*"))
