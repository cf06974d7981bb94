"""What is found out about networks that are added: on several datasets, on their union, and beside one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from metasum.merging.endpoints import WideningMethod
from metasum.merging.method import Method
from metasum.networks.cutting import in_blocks
from metasum.results.strangers import (
    AloneAndSum,
    DatasetAccuracy,
    DatasetAccuracyAndAlone,
    StrangersAccuracy,
    StrangersAccuracyAndAlone,
    UnionAccuracy,
)
from metasum.strangers.datasets import union_of
from metasum.strangers.runs import FinishedRun
from metasum.training.analysis import as_rows
from metasum.training.confusion import accuracy, confusion, share_right
from metasum.types import Buffers, Task
from metasum.weights.copies import copy_of
from metasum.weights.parameters import buffers_of
from metasum.weights.statistics import normalisers, recalibrate
from metasum.weights.statistics_policy import settle_statistics, side_by_side


def kept_statistics(runs: Sequence[FinishedRun], method: Method, merged: nn.Module) -> dict[str, Tensor] | None:
    """Buffers with every run's own statistics, where what `method` made of their networks can have them; else None."""
    if runs[0].kept:
        return None
    if isinstance(method, WideningMethod):  # it has them
        return {name: buffer.clone() for name, buffer in buffers_of(merged).items()} if normalisers(merged) else None
    return side_by_side([run.network for run in runs]) if method.keeps_functions else None


class MeasuredNetwork(NamedTuple):
    """What a network does on several datasets."""

    accuracy: StrangersAccuracy
    confusion: dict[str, Tensor]
    """For each dataset, of the network as it can be deployed, int64 `[classes, classes]`."""
    networks: Mapping[str, nn.Module]
    """For each dataset, as it can be deployed, in eval mode: with every network's own statistics, or else with those of
    the union. All are one module, or where heads are kept, one for each head. They may be other modules than those that
    were measured, of the same function (`in_blocks`)."""


def measure(
    networks: Mapping[str, nn.Module],
    tasks: Mapping[str, Task],
    calibration_batches: int,
    *,
    kept: Buffers | None = None,
) -> MeasuredNetwork:
    """Accuracies with statistics recalibrated on each dataset, with those of the union, and with every network's own.

    No gradient is recorded.

    Args:
        networks: what is measured, by the dataset on which it is: as a rule one module everywhere, or one for each that
            differ in their heads; they are left in eval mode, with `kept` or anybody's statistics.
        tasks: each dataset by name.
        calibration_batches: of unlabelled training images that recalibration reads.
        kept: every network's own statistics, where the sum can have them.
    """
    if kept is not None:
        _each_once(networks, lambda network: settle_statistics(network, "own", (), {"own": kept}))
    kept_networks = _each_once(networks, in_blocks)
    own = _each_once(kept_networks, copy_of)
    deployed, recalibrated = {}, {}
    if kept is not None:
        deployed = {name: confusion(kept_networks[name], task.evaluation()) for name, task in tasks.items()}
    for name, task in tasks.items():
        recalibrate(own[name], task.calibration(calibration_batches))
        recalibrated[name] = accuracy(own[name], task.evaluation())
    _each_once(own, lambda network: recalibrate(network, union_of(tasks).calibration(calibration_batches)))
    of_union = {name: confusion(own[name], task.evaluation()) for name, task in tasks.items()}
    datasets = {
        name: DatasetAccuracy(
            recalibrated[name], share_right(of_union[name]), share_right(deployed[name]) if deployed else None
        )
        for name in tasks
    }
    mean = sum(found.sum_union_statistics for found in datasets.values()) / len(datasets)
    union = UnionAccuracy(_pooled(of_union), round(mean, 6), _pooled(deployed) if deployed else None)
    return MeasuredNetwork(
        StrangersAccuracy(datasets=datasets, union=union),
        deployed or of_union,
        own if kept is None else kept_networks,
    )


def _each_once(networks: Mapping[str, nn.Module], change: Callable[[nn.Module], nn.Module]) -> dict[str, nn.Module]:
    """By the same names what `change` makes of them; of a module with several names it is made once."""
    changed = {network: change(network) for network in dict.fromkeys(networks.values())}
    return {name: changed[network] for name, network in networks.items()}


def _pooled(matrices: Mapping[str, Tensor]) -> float:
    """The accuracy over all datasets' images."""
    right, images = (sum(int(own) for own in each) for each in zip(*map(_counts, matrices.values()), strict=True))
    return round(right / images, 6)


def _counts(matrix: Tensor) -> tuple[int, int]:
    return int(matrix.diagonal().sum()), int(matrix.sum())


class NetworkAlone(NamedTuple):
    """A run's network on its own dataset."""

    dataset: str
    trained: nn.Module
    """With running statistics."""
    network: nn.Module
    """A copy with statistics recalibrated on its dataset."""
    confusion: Tensor
    """Of the copy, int64 `[classes, classes]`."""
    running: Tensor | None
    """The same with running statistics; None where it has none."""


def networks_alone(
    runs: Sequence[FinishedRun], tasks: Mapping[str, Task], calibration_batches: int
) -> list[NetworkAlone]:
    """The runs' networks, each on the dataset that it was trained on where that is one of the tasks; see `measure`."""
    alone = []
    for run in runs:
        if (task := tasks.get(run.target)) is not None:
            cut = in_blocks(run.network)
            network = recalibrate(copy_of(cut), task.calibration(calibration_batches))
            running = confusion(cut, task.evaluation()) if normalisers(network) else None
            alone.append(NetworkAlone(run.target, cut, network, confusion(network, task.evaluation()), running))
    return alone


def _added_up(matrices: Iterable[tuple[str, Tensor | None]]) -> dict[str, Tensor]:
    """By dataset; those of several networks on one are added."""
    total: dict[str, Tensor] = {}
    for name, matrix in matrices:
        if matrix is not None:
            total[name] = total[name] + matrix if name in total else matrix
    return total


def beside_alone(found: MeasuredNetwork, networks: Sequence[NetworkAlone]) -> dict[str, Any]:
    """Fields of a `SumResult`: "accuracy" and "confusion" of the merged network and of each dataset's own network."""
    alone = _added_up((own.dataset, own.confusion) for own in networks)
    running = _added_up((own.dataset, own.running) for own in networks)
    kept = found.accuracy.union.sum_own_statistics is not None
    beside = running if kept else alone  # with statistics as the deployed sum has them
    datasets = {
        name: DatasetAccuracyAndAlone(
            own.sum,
            own.sum_union_statistics,
            own.sum_own_statistics,
            alone=share_right(alone[name]) if name in alone else None,
            alone_running=share_right(running[name]) if name in running else None,
        )
        for name, own in found.accuracy.datasets.items()
    }
    return {
        "accuracy": StrangersAccuracyAndAlone(datasets, found.accuracy.union),
        "confusion": {
            name: AloneAndSum(as_rows(beside[name]) if name in beside else None, as_rows(matrix))
            for name, matrix in found.confusion.items()
        },
    }
