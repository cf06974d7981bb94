"""The datasets on which networks that are added are measured, each and all as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from metasum.errors import UsageError
from metasum.strangers.runs import FinishedRun
from metasum.tasks.loading import load_dataset
from metasum.tasks.task import ImageTask, UnionTask
from metasum.types import Task


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
        trained = [run for run in runs if run.target == name]
        plan = trained[0].plan if trained else first
        root = data_root or Path(plan.data.data_root)
        dataset = load_dataset(name, root=root, download=download)
        other = next((run for run in trained if run.data_checksum != dataset.checksum), None)
        if other is not None:
            raise UsageError(
                f"dataset {name!r} in {root} is not the one that {other.folder} was trained on (other checksum)."
            )
        if dataset.num_classes > (classes := plan.network.num_classes):
            raise UsageError(f"dataset {name!r} has {dataset.num_classes} classes, more than the networks' {classes}.")
        tasks[name] = ImageTask(
            dataset,
            in_channels=first.data.in_channels,
            device=device,
            evaluate_on=first.data.evaluate_on,
            image_size=first.network.image_size,
        )
    return tasks


def union_of(tasks: Mapping[str, Task]) -> Task:
    """All datasets as one."""
    return UnionTask(list(tasks.values()))
