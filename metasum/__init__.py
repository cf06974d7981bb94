"""metasum: train neural networks so that their weights can be added."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasum.assembly.summing import sum_runs
    from metasum.assembly.training import train
    from metasum.config import MergeConfig, TrainConfig, settings
    from metasum.learners.networks import MetaSum
    from metasum.merging.disk.files import merge_files
    from metasum.networks.build import load_network
    from metasum.sweeps.config import SweepConfig
    from metasum.sweeps.run import sweep
    from metasum.weights.composition import average_parameters, sum_parameters
    from metasum.weights.functional import functional_call
    from metasum.weights.statistics import recalibrate

# Public names and where they live; each is imported when it is first used, so that `metasum --help` is quick.
_HOMES = {
    "MergeConfig": "metasum.config",
    "MetaSum": "metasum.learners.networks",
    "SweepConfig": "metasum.sweeps.config",
    "TrainConfig": "metasum.config",
    "average_parameters": "metasum.weights.composition",
    "functional_call": "metasum.weights.functional",
    "load_network": "metasum.networks.build",
    "merge_files": "metasum.merging.disk.files",
    "recalibrate": "metasum.weights.statistics",
    "settings": "metasum.config",
    "sum_parameters": "metasum.weights.composition",
    "sum_runs": "metasum.assembly.summing",
    "sweep": "metasum.sweeps.run",
    "train": "metasum.assembly.training",
}

__all__ = [
    "MergeConfig",
    "MetaSum",
    "SweepConfig",
    "TrainConfig",
    "average_parameters",
    "functional_call",
    "load_network",
    "merge_files",
    "recalibrate",
    "settings",
    "sum_parameters",
    "sum_runs",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'metasum' has no attribute {name!r}")
