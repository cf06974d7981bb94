"""Networks of the user's own, from files: a function that makes one, checkpoints of it, data in .npz files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from metasum.errors import ArchitectureError, UsageError, told_of
from metasum.modules.measuring import evaluate
from metasum.networks import functions
from metasum.networks.checkpoints import load_checkpoint
from metasum.results.evaluation import EvaluationResult
from metasum.run.array_files import ArrayFile
from metasum.weights.batches import Batches, cut, device_of
from metasum.weights.calling import run
from metasum.weights.parameters import check_finite
from metasum.weights.randomness import same_randomness
from metasum.weights.statistics import normalisers, recalibrate_together

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class OwnNetwork:
    """How checkpoints become networks, and arrays their inputs."""

    models: tuple[str, ...]
    """`FILE.py:FUNCTION` or `package.module:FUNCTION`, which returns the module; one, or one for each checkpoint."""
    mean: tuple[float, ...] = ()
    """By which images in uint8 are normalised, for each channel, on the scale from 0 to 1."""
    std: tuple[float, ...] = ()
    device: torch.device | None = None
    """Where it is run [default: the CPU]."""
    keep: tuple[str, ...] = ()
    """Patterns of the parameters that each network keeps for itself: heads, perhaps of other classes."""

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
        if len(self.models) not in (1, len(files)):
            raise UsageError(
                f"--model takes one function, or one for each of the {len(files)} checkpoints, with commas between "
                f"them; not {len(self.models)}."
            )
        every = self.models * len(files) if len(self.models) == 1 else self.models
        try:
            return [self._loaded(name, file, note) for name, file in zip(every, files, strict=True)]
        except ArchitectureError as error:
            if not self.keep or len(self.models) > 1:
                raise
            how = "Where heads are of different sizes, --model takes a function for each checkpoint."
            raise ArchitectureError(f"{error} {how}") from error

    def base(self, file: Path | str, note: Note) -> nn.Module:
        """What all were trained from, of the first function; what networks keep is not looked at, and may be another's.

        Raises as `load` does.
        """
        return self._loaded(self.models[0], file, note, but=self.keep)

    def _loaded(self, model: str, file: Path | str, note: Note, *, but: Sequence[str] = ()) -> nn.Module:
        name = functions.named(model)
        with torch.random.fork_rng(devices=[]):
            network = functions.make_network(name)
        for told in load_checkpoint(network, file, but=but):
            note(told)
        check_finite(network, str(file))
        return network.eval().to(self.device or "cpu")

    def data(self, path: Path | str, split: str, network: nn.Module, *, labelled: bool = False) -> ArrayFile:
        """The arrays in a file, for this network, which is run on two of them.

        Raises:
            DatasetError, UsageError: as `ArrayFile` does; or the network, in eval mode, cannot be run on them.
        """
        floats = (own.dtype for own in network.parameters() if own.is_floating_point())
        dtype = next(floats, torch.float32)
        data = ArrayFile(path, split, labelled=labelled, mean=self.mean, std=self.std, dtype=dtype)
        first = next(iter(Batches(data, device=device_of(network))))
        try:
            with told_of(data.what), torch.no_grad(), same_randomness(device_of(network)):
                run(network, cut(first.inputs, 0, 2))
        except UsageError as error:
            if (
                isinstance(first.inputs, torch.Tensor)
                and first.inputs.ndim > 2
                and not first.inputs.is_floating_point()
            ):
                raise UsageError(f"{error} Store images as uint8, or as the floats that the network takes.") from error
            raise
        return data


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
        device = device_of(network)
        recalibrate_together([(network, Batches(file, device=device)) for file in images])
    found = {name: evaluate(network, data) for name, data in sets.items()}
    counts = {name: measured.count for name, measured in found.items()}
    accuracy = {name: float(measured.value) for name, measured in found.items()}
    every = sum(counts.values())
    accuracy["union"] = round(sum(accuracy[name] * count for name, count in counts.items()) / every, 6)
    loss = {name: round(measured.loss, 6) for name, measured in found.items() if measured.loss is not None}
    told = "recalibrated on " + ", ".join(map(str, recalibrate_on)) if images else "stored"
    return EvaluationResult(str(file), told, "test", accuracy, loss)
