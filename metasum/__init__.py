"""metasum: train neural networks so that their weights can be added."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # a name `as` itself is public
    from metasum.errors import MetaSumError as MetaSumError
    from metasum.learners.networks import MetaSum as MetaSum
    from metasum.merging.disk.config import MergeConfig as MergeConfig
    from metasum.merging.disk.files import merge_files as merge_files
    from metasum.modules.aligning import align as align
    from metasum.modules.aligning import same_function as same_function
    from metasum.modules.comparing import compare as compare
    from metasum.modules.lines import line as line
    from metasum.modules.measuring import evaluate as evaluate
    from metasum.modules.merging import merge as merge
    from metasum.modules.repairing import repair as repair
    from metasum.modules.tasks import MergedTasks as MergedTasks
    from metasum.networks.build import load_network as load_network
    from metasum.networks.checkpoints import load_checkpoint as load_checkpoint
    from metasum.run.request import Request as Request
    from metasum.run.request import settings as settings
    from metasum.run.training import train as train
    from metasum.strangers.request import SumRequest as SumRequest
    from metasum.strangers.summing import sum_runs as sum_runs
    from metasum.sweeps.config import SweepConfig as SweepConfig
    from metasum.sweeps.run import sweep as sweep
    from metasum.weights.composition import average_parameters as average_parameters
    from metasum.weights.composition import sum_parameters as sum_parameters
    from metasum.weights.functional import functional_call as functional_call
    from metasum.weights.statistics import recalibrate as recalibrate

# Public names and where they live; each is imported when it is first used, so that `metasum --help` is quick.
_HOMES = {
    "MergeConfig": "metasum.merging.disk.config",
    "MetaSum": "metasum.learners.networks",
    "MetaSumError": "metasum.errors",
    "SumRequest": "metasum.strangers.request",
    "SweepConfig": "metasum.sweeps.config",
    "align": "metasum.modules.aligning",
    "average_parameters": "metasum.weights.composition",
    "compare": "metasum.modules.comparing",
    "evaluate": "metasum.modules.measuring",
    "functional_call": "metasum.weights.functional",
    "line": "metasum.modules.lines",
    "load_checkpoint": "metasum.networks.checkpoints",
    "load_network": "metasum.networks.build",
    "MergedTasks": "metasum.modules.tasks",
    "merge": "metasum.modules.merging",
    "merge_files": "metasum.merging.disk.files",
    "Request": "metasum.run.request",
    "recalibrate": "metasum.weights.statistics",
    "repair": "metasum.modules.repairing",
    "same_function": "metasum.modules.aligning",
    "settings": "metasum.run.request",
    "sum_parameters": "metasum.weights.composition",
    "sum_runs": "metasum.strangers.summing",
    "sweep": "metasum.sweeps.run",
    "train": "metasum.run.training",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'metasum' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})  # an interpreter completes names that nothing has used yet
