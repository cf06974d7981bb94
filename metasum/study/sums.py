"""Measuring the sum of networks that never met, on each dataset and on their union."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from metasum.training.evaluation import confusion, share_right
from metasum.types import Task
from metasum.weights.statistics import recalibrate


class Measured(NamedTuple):
    """What a network does on several datasets, in [0, 1]."""

    accuracy: dict[str, Any]
    """For each dataset "sum" (statistics recalibrated on that dataset) and "sum_union_statistics"; under "union" the
    share of all datasets' images ("sum_union_statistics") and the mean over the datasets, each counting alike
    ("mean_of_datasets"), both with the statistics of the union."""
    confusion: dict[str, Tensor]
    """For each dataset, with the statistics of the union, `[classes, classes]`."""


@dataclass(frozen=True)
class Ground:
    """What sums are measured on."""

    tasks: Mapping[str, Task]
    """Each dataset by name."""
    union: Task
    """All of them as one."""
    calibration_batches: int
    """Batches of unlabelled training images that recalibration reads."""

    def measure(self, network: nn.Module) -> Measured:
        """Measures a network; it is left with the statistics of the union, in eval mode."""
        own = {}
        for name, task in self.tasks.items():
            own[name] = self.confusion(recalibrate(network, task.calibration(self.calibration_batches)), task)
        recalibrate(network, self.union.calibration(self.calibration_batches))
        deployed = {name: self.confusion(network, task) for name, task in self.tasks.items()}
        accuracies: dict[str, Any] = {
            name: {"sum": share_right(own[name]), "sum_union_statistics": share_right(deployed[name])}
            for name in self.tasks
        }
        shares = [share_right(matrix) for matrix in deployed.values()]
        pooled = sum(int(m.diagonal().sum()) for m in deployed.values()) / sum(int(m.sum()) for m in deployed.values())
        accuracies["union"] = {
            "sum_union_statistics": round(pooled, 6),
            "mean_of_datasets": round(sum(shares) / len(shares), 6),
        }
        return Measured(accuracies, deployed)

    @staticmethod
    def confusion(network: nn.Module, task: Task) -> Tensor:
        """On all held-out images of a task, `[classes, classes]`."""
        return confusion(network, task.evaluation())
