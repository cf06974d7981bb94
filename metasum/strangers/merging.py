"""Merging the target networks of finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from metasum.merging import memory
from metasum.merging.endpoints import Endpoint
from metasum.merging.method import Method
from metasum.strangers.runs import FinishedRun
from metasum.types import Task
from metasum.weights.parameters import with_parameters


def endpoints_of(runs: Sequence[FinishedRun], tasks: Mapping[str, Task], *, batches: int) -> list[Endpoint]:
    """The runs' target networks with unlabelled training images of their own datasets, where `tasks` has them.

    Args:
        runs: which can be added.
        tasks: datasets by name.
        batches: of images, at most.
    """
    return [
        Endpoint(run.network, list(tasks[run.target].calibration(batches)) if run.target in tasks else [])
        for run in runs
    ]


def merge_runs(runs: Sequence[FinishedRun], endpoints: Sequence[Endpoint], method: Method) -> nn.Module:
    """A new network, what `method` makes of the runs' target networks; its statistics are the first run's.

    Args:
        runs: which can be added; θ_0 is the first one's start.
        endpoints: what `endpoints_of` made of them, all on one device.
        method: with its settings.

    Raises:
        UsageError: the method does not merge so many, or needs images that are not there.
        ArchitectureError: the method cannot merge such networks.
    """
    network = endpoints[0].network
    device = next(network.parameters()).device
    initial = {name: tensor.to(device) for name, tensor in runs[0].initial.items()}
    return with_parameters(network, memory.merge(method, endpoints, initial))
