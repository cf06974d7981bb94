"""Networks of the user's own, from files: a function that makes one, checkpoints of it, images in .npz files."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
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
from metasum.networks import functions
from metasum.networks.checkpoints import load_checkpoint
from metasum.results.evaluation import EvaluationResult
from metasum.results.merge import MergeResult
from metasum.run.array_files import ArrayFile
from metasum.weights.storage import save_weights

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class OwnNetwork:
    """How checkpoints become networks, and arrays their inputs."""

    model: str
    """`FILE.py:FUNCTION` or `package.module:FUNCTION`, which returns the module."""
    mean: tuple[float, ...] = ()
    """By which images in uint8 are normalised, for each channel, on the scale from 0 to 1."""
    std: tuple[float, ...] = ()
    device: torch.device | None = None
    """Where it is run [default: the CPU]."""

    def load(self, files: Sequence[Path | str], note: Note) -> list[nn.Module]:
        """The networks in checkpoints, in eval mode, on the device.

        Args:
            files: see `load_checkpoint`.
            note: hears what was taken out of a file, or left off its names.

        Raises:
            UsageError: the function is not there, raises or returns no module.
            CheckpointError: a file is missing or damaged.
            ArchitectureError: it does not fit the network; what differs is named.
        """
        networks = []
        name = functions.named(self.model)
        for file in files:
            with torch.random.fork_rng(devices=[]):
                network = functions.make_network(name)
            for told in load_checkpoint(network, file):
                note(told)
            networks.append(network.eval().to(self.device or "cpu"))
        return networks

    def data(self, path: Path | str, split: str, network: nn.Module, *, labelled: bool = False) -> ArrayFile:
        """The arrays in a file, for this network; raises as `ArrayFile` does."""
        floats = (own.dtype for own in network.parameters() if own.is_floating_point())
        dtype = next(floats, torch.float32)
        return ArrayFile(path, split, labelled=labelled, mean=self.mean, std=self.std, dtype=dtype)


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
    from metasum.modules.merging import merge

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
    tensors = _chosen(merged, networks[0], settings)
    given: dict[str, Any] = dataclasses.asdict(method.config) | ({"seed": method.seed} if method.random else {})
    what = {
        "method": method.name,
        "files": [{"name": str(file), "bytes": _size(file)} for file in files],
        **({"base": {"name": str(base), "bytes": _size(base)}} if base else {}),
        **({"images": [str(path) for path in images]} if images else {}),
        "settings": given | {"dtype": settings.dtype},
        "metasum": version("metasum"),
    }
    save_weights(output, tensors, metadata={"format": "pt", "merge": json.dumps(what, ensure_ascii=False)})
    return MergeResult(
        method=method.name,
        files=tuple(map(str, files)),
        output=str(output),
        parameters=sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()),
        bytes=output.stat().st_size,
        seconds=time.perf_counter() - started,
        peak_bytes=None,
        notes=tuple(notes),
    )


def _check(
    method: Method, files: Sequence[Path], images: Sequence[Path], base: Path | None, settings: MergeConfig
) -> None:
    """Raises UsageError for what can be known before a file is read."""
    method.check(len(files), what="files")
    if isinstance(method, WideningMethod):
        raise UsageError(f"{method.name} makes a network of another architecture, which --model does not make.")
    if images and len(images) != len(files):
        raise UsageError(f"--images takes one .npz file for each of the {len(files)} checkpoints, not {len(images)}.")
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


def _chosen(merged: nn.Module, first: nn.Module, settings: MergeConfig) -> dict[str, Tensor]:
    """What is written: the merged tensors, and the first network's where patterns say so."""
    state, own = merged.state_dict(), first.state_dict()
    for flag, patterns in (("--only", settings.only), ("--skip", settings.skip)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in state):
                raise UsageError(f"{flag} {pattern}: no parameter is called so, as {next(iter(state), '')} is.")

    def of(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    taken = {name: (not settings.only or of(name, settings.only)) and not of(name, settings.skip) for name in state}
    tensors = {name: tensor if taken[name] else own[name] for name, tensor in state.items()}
    if settings.dtype == "keep":
        return tensors
    dtype = getattr(torch, settings.dtype)
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*"))


def evaluate_checkpoint(
    file: Path,
    own: OwnNetwork,
    on: Sequence[Path],
    *,
    recalibrate_on: Sequence[Path] = (),
    note: Note = lambda _: None,
) -> EvaluationResult:
    """Accuracy and cross-entropy of a checkpoint of a network of one's own on labelled .npz files.

    Args:
        file: the checkpoint, which stays as it is.
        own: the network.
        on: the files; of the Keras layout the test half is read.
        recalibrate_on: recompute batch-norm statistics on these images first; of the Keras layout the training half.
        note: hears what was taken out of the file, or left off its names.

    Raises:
        UsageError: the function makes no network, or that cannot be run on the data.
        DatasetError: a .npz file is missing or damaged, or has no labels.
        CheckpointError: the checkpoint is missing or damaged.
        ArchitectureError: it does not fit the network.
    """
    from metasum.modules.measuring import evaluate
    from metasum.weights.statistics import normalisers, recalibrate

    (network,) = own.load([file], note)
    sets = {str(path): own.data(path, "test", network, labelled=True) for path in on}
    images = [own.data(path, "train", network) for path in recalibrate_on]
    if images:
        if not normalisers(network):
            raise UsageError("--recalibrate-on says nothing to this network: it keeps no running statistics.")
        recalibrate(network, [batch for data in images for batch in data])
    found = {name: evaluate(network, data) for name, data in sets.items()}
    counts = {name: measured.count for name, measured in found.items()}
    accuracy = {name: float(measured.value) for name, measured in found.items()}
    every = sum(counts.values())
    accuracy["union"] = round(sum(accuracy[name] * count for name, count in counts.items()) / every, 6)
    loss = {name: round(measured.loss, 6) for name, measured in found.items() if measured.loss is not None}
    told = "recalibrated on " + ", ".join(map(str, recalibrate_on)) if images else "stored"
    return EvaluationResult(str(file), told, "test", accuracy, loss)
