"""Accuracy of a weights file on datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metasum.config.words import HeldOut
from metasum.errors import CheckpointError, UsageError
from metasum.networks.build import load_network, read_architecture
from metasum.plugins import load_entry_points
from metasum.results.evaluation import EvaluationResult
from metasum.tasks.loading import load_dataset
from metasum.tasks.task import ImageTask
from metasum.training.confusion import confusion, share_right
from metasum.training.optimisation import make_fabric
from metasum.weights.statistics import recalibrate


def evaluate(
    file: Path | str,
    on: Sequence[str],
    *,
    statistics: str = "stored",
    calibration_batches: int = 16,
    evaluate_on: HeldOut = "test",
    data_root: Path | str = ".data",
    download: bool = False,
    device: str = "auto",
) -> EvaluationResult:
    """Measures the network in a weights file that metasum wrote.

    Args:
        file: any .safetensors file of a run folder, or one written by `metasum sum --export`.
        on: names of datasets.
        statistics: "stored" in the file, or "recalibrate" on each dataset in turn.
        calibration_batches: of 256 training images that recalibration reads.
        evaluate_on: "test" or "validation".
        data_root: where the datasets lie.
        download: let torchvision fetch a dataset that is not there.
        device: "auto", "cpu", "cuda" or "mps".

    Returns:
        Its `accuracy` is one in [0, 1] for each dataset and, under "union", of all their images.

    Raises:
        CheckpointError: the file is missing, damaged, or not metasum's.
        UsageError: no dataset, or one with more classes than the network.
    """
    if not on:
        raise UsageError("name at least one dataset with --on.")
    load_entry_points()
    fabric = make_fabric(device)
    told = _architecture(Path(file))
    seen, classes = {"in_channels": told["in_channels"], "image_size": told.get("image_size", 32)}, told["num_classes"]
    network = load_network(file).to(fabric.device)
    right, total, accuracies = 0, 0, {}
    for name in dict.fromkeys(on):
        dataset = load_dataset(name, root=Path(data_root), download=download)
        if dataset.num_classes > classes:
            raise UsageError(f"dataset {name!r} has {dataset.num_classes} classes, {file} only {classes}.")
        task = ImageTask(dataset, **seen, device=fabric.device, evaluate_on=evaluate_on)
        if statistics == "recalibrate":
            recalibrate(network, task.calibration(calibration_batches))
        matrix = confusion(network, task.evaluation())
        accuracies[name] = share_right(matrix)
        right, total = right + int(matrix.diagonal().sum()), total + int(matrix.sum())
    accuracies["union"] = round(right / total, 6)
    return EvaluationResult(str(file), statistics, evaluate_on, accuracies)


def _architecture(file: Path) -> dict[str, Any]:
    """What the file says it is; whoever has a checkpoint of another program is told how that is measured."""
    try:
        return read_architecture(file)
    except CheckpointError as error:
        if not file.exists():
            raise
        raise CheckpointError(
            f"{error} Where it is a checkpoint of a network of your own, add --model FILE.py:FUNCTION."
        ) from error
