"""Networks of the user's own, from files: a function that makes one, checkpoints of it, data in .npz files."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from metasum.errors import UsageError
from metasum.modules.measuring import evaluate
from metasum.networks import functions
from metasum.networks.checkpoints import load_checkpoint
from metasum.results.evaluation import EvaluationResult
from metasum.run.array_files import ArrayFile
from metasum.weights.parameters import check_finite
from metasum.weights.statistics import normalisers, recalibrate

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
            UsageError: the function is not there, raises or returns no module; or weights are NaN or infinite.
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
            check_finite(network, str(file))
            networks.append(network.eval().to(self.device or "cpu"))
        return networks

    def data(self, path: Path | str, split: str, network: nn.Module, *, labelled: bool = False) -> ArrayFile:
        """The arrays in a file, for this network; raises as `ArrayFile` does."""
        floats = (own.dtype for own in network.parameters() if own.is_floating_point())
        dtype = next(floats, torch.float32)
        return ArrayFile(path, split, labelled=labelled, mean=self.mean, std=self.std, dtype=dtype)


def check_images(images: Sequence[Path], files: Sequence[Path]) -> None:
    """Raises UsageError where there are images, and not a file of them for each checkpoint."""
    if images and len(images) != len(files):
        raise UsageError(f"--images takes one .npz file for each of the {len(files)} checkpoints, not {len(images)}.")


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
    (network,) = own.load([file], note)
    sets = {str(path): own.data(path, "test", network, labelled=True) for path in on}
    images = [own.data(path, "train", network) for path in recalibrate_on]
    if images:
        if not normalisers(network):
            raise UsageError("--recalibrate-on says nothing to this network: it keeps no running statistics.")
        recalibrate(network, itertools.chain.from_iterable(images))  # read once
    found = {name: evaluate(network, data) for name, data in sets.items()}
    counts = {name: measured.count for name, measured in found.items()}
    accuracy = {name: float(measured.value) for name, measured in found.items()}
    every = sum(counts.values())
    accuracy["union"] = round(sum(accuracy[name] * count for name, count in counts.items()) / every, 6)
    loss = {name: round(measured.loss, 6) for name, measured in found.items() if measured.loss is not None}
    told = "recalibrated on " + ", ".join(map(str, recalibrate_on)) if images else "stored"
    return EvaluationResult(str(file), told, "test", accuracy, loss)
