"""Measuring a network on several datasets and on their union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metasum.errors import UsageError
from metasum.results.strangers import DatasetAccuracy, StrangersAccuracy, UnionAccuracy
from metasum.strangers.runs import FinishedRun
from metasum.tasks.registry import load_dataset
from metasum.tasks.task import ImageTask, UnionTask
from metasum.training.evaluation import confusion, share_right
from metasum.types import Task
from metasum.weights.statistics import recalibrate


def tasks_of(
    runs: Sequence[FinishedRun], names: Sequence[str], *, data_root: Path | None, device: torch.device, download: bool
) -> dict[str, ImageTask]:
    """The datasets called `names`, prepared as the runs saw theirs.

    Args:
        runs: finished runs that can be added.
        names: of datasets.
        data_root: where they lie [default: where each run found its own, or the first run's for others].
        device: where batches are made.
        download: let torchvision fetch what is not there.

    Raises:
        UsageError: a dataset is not the one that a run was trained on, though it has its name; or it has more
            classes than the networks.
    """
    tasks = {}
    first = runs[0].plan
    for name in dict.fromkeys(names):
        owners = [run for run in runs if run.target == name]
        root = data_root or Path((owners[0].plan if owners else first).data.data_root)
        dataset = load_dataset(name, root=root, download=download)
        other = next((run for run in owners if run.data_checksum != dataset.checksum), None)
        if other is not None:
            raise UsageError(
                f"dataset {name!r} in {root} is not the one that {other.folder} was trained on (other checksum)."
            )
        if dataset.num_classes > first.network.num_classes:
            raise UsageError(
                f"dataset {name!r} has {dataset.num_classes} classes, more than the networks' "
                f"{first.network.num_classes}."
            )
        tasks[name] = ImageTask(
            dataset, in_channels=first.data.in_channels, device=device, evaluate_on=first.data.evaluate_on
        )
    return tasks


class MeasuredNetwork(NamedTuple):
    """What a network does on several datasets."""

    accuracy: StrangersAccuracy
    confusion: dict[str, Tensor]
    """For each dataset, with the statistics of the union, int64 `[classes, classes]`."""


@dataclass(frozen=True)
class DatasetsAndUnion:
    """Several datasets that a network is measured on, one by one and all together."""

    tasks: Mapping[str, Task]
    """Each dataset by name."""
    calibration_batches: int
    """Batches of unlabelled training images that recalibration reads."""

    def measure(self, network: nn.Module) -> MeasuredNetwork:
        """Accuracies with statistics recalibrated on each dataset, and with those of the union.

        The network is left with the statistics of the union, in eval mode. No gradient is recorded.
        """
        own = {}
        for name, task in self.tasks.items():
            recalibrate(network, task.calibration(self.calibration_batches))
            own[name] = share_right(confusion(network, task.evaluation()))
        recalibrate(network, UnionTask(list(self.tasks.values())).calibration(self.calibration_batches))
        deployed = {name: confusion(network, task.evaluation()) for name, task in self.tasks.items()}
        shares = {name: share_right(matrix) for name, matrix in deployed.items()}
        pooled = sum(int(m.diagonal().sum()) for m in deployed.values()) / sum(int(m.sum()) for m in deployed.values())
        accuracy = StrangersAccuracy(
            datasets={name: DatasetAccuracy(own[name], shares[name]) for name in self.tasks},
            union=UnionAccuracy(round(pooled, 6), round(sum(shares.values()) / len(shares), 6)),
        )
        return MeasuredNetwork(accuracy, deployed)
