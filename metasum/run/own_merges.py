"""Checkpoints of a network of one's own merged into one file, by any method."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metasum.errors import UsageError
from metasum.merging.disk.config import MergeConfig
from metasum.merging.disk.files import check_apart
from metasum.merging.endpoints import WideningMethod
from metasum.merging.method import Method
from metasum.modules.merging import merge
from metasum.results.merge import MergeResult
from metasum.run.own_networks import Note, OwnNetwork, check_images
from metasum.weights.batches import Together
from metasum.weights.statistics import recalibrate
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

    Args:
        method: any that leaves the architecture as it is.
        files: the checkpoints.
        output: the result, which is replaced where it is there (see `check_place`); it appears whole or not at all.
        own: the network.
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
    check_apart(output, [*files, *images, *([] if base is None else [base])])
    _check(method, files, images, base, settings)
    notes: list[str] = []

    def told(sentence: str) -> None:
        notes.append(sentence)
        note(sentence)

    networks = own.load(files, told)
    start = None if base is None else own.load([base], told)[0]
    data = [own.data(path, "train", network) for path, network in zip(images, networks, strict=False)]
    merged = merge(networks, method, images=data or None, base=start)
    _put_back(merged, networks[0], settings)
    if data and (settings.only or settings.skip):
        recalibrate(merged, Together(data))  # of the network as it is written
        _put_back(merged, networks[0], settings)
    tensors = _in_dtype(merged.state_dict(), settings.dtype)
    save_weights(output, tensors, metadata=_metadata(method, files, images, base, settings))
    return MergeResult(
        method=method.name,
        files=tuple(map(str, files)),
        output=str(output),
        parameters=sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()),
        bytes=output.stat().st_size,
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        notes=tuple(notes) or None,
    )


def _check(
    method: Method, files: Sequence[Path], images: Sequence[Path], base: Path | None, settings: MergeConfig
) -> None:
    """Raises UsageError for what can be known before a file is read."""
    method.check(len(files), what="files")
    if isinstance(method, WideningMethod):
        raise UsageError(f"{method.name} makes a network of another architecture, which --model does not make.")
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
        "metasum": version("metasum"),
    }
    return {"format": "pt", "merge": json.dumps(what, ensure_ascii=False)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*"))
