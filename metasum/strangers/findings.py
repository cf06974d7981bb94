"""What is found out about networks that are added, beside the accuracy of their sum."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from metasum.results.pictures import Mistake
from metasum.results.strangers import (
    AloneAndSum,
    DatasetAccuracyAndAlone,
    LineBetween,
    PairGeometry,
    StrangersAccuracyAndAlone,
)
from metasum.strangers.measuring import MeasuredNetwork
from metasum.strangers.runs import FinishedRun, same_start
from metasum.training.analysis import as_rows, interpolate, mistakes
from metasum.training.evaluation import confusion, share_right
from metasum.training.progress import Display
from metasum.types import Task
from metasum.weights.geometry import layer_geometry
from metasum.weights.parameters import parameters_of


def confusions_alone(runs: Sequence[FinishedRun], tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """For each dataset that a run was trained on, what its network takes images for: int64 `[classes, classes]`.

    The matrices of several runs on one dataset are added up.
    """
    alone: dict[str, Tensor] = {}
    for run in runs:
        if run.target in tasks:
            matrix = confusion(run.network, tasks[run.target].evaluation())
            alone[run.target] = alone[run.target] + matrix if run.target in alone else matrix
    return alone


def beside_alone(found: MeasuredNetwork, alone: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of a `SumResult`: "accuracy" and "confusion" of the merged network and of each dataset's own network.

    Args:
        found: the merged network, measured.
        alone: what `confusions_alone` found.
    """
    datasets = {
        name: DatasetAccuracyAndAlone(
            own.sum, own.sum_union_statistics, alone=share_right(alone[name]) if name in alone else None
        )
        for name, own in found.accuracy.datasets.items()
    }
    return {
        "accuracy": StrangersAccuracyAndAlone(datasets, found.accuracy.union),
        "confusion": {
            name: AloneAndSum(as_rows(alone[name]) if name in alone else None, as_rows(matrix))
            for name, matrix in found.confusion.items()
        },
    }


def new_mistakes(
    runs: Sequence[FinishedRun], network: nn.Module, tasks: Mapping[str, Task]
) -> dict[str, tuple[Mistake, ...]]:
    """For each run's dataset, some images that the merged network gets wrong."""
    return {run.target: mistakes(run.network, network, tasks[run.target]) for run in runs if run.target in tasks}


def lines_between(runs: Sequence[FinishedRun], tasks: Mapping[str, Task], display: Display) -> tuple[LineBetween, ...]:
    """Accuracy along the line between every two networks."""
    lines = []
    for first, second in itertools.combinations(runs, 2):
        display.note(f"along the line from {second.target} to {first.target} …")
        line = interpolate(first.network, second.network, tasks)
        lines.append(LineBetween(line.alphas, line.accuracy, ends=(second.target, first.target)))
    return tuple(lines)


def geometry_of(runs: Sequence[FinishedRun]) -> tuple[PairGeometry, ...]:
    """Angles and lengths between every two networks' layers, and of what they are apart from a shared start."""
    shared = same_start(runs)
    return tuple(_geometry(*pair, shared) for pair in itertools.combinations(runs, 2))


def _geometry(first: FinishedRun, second: FinishedRun, shared: bool) -> PairGeometry:
    ours, theirs = ({n: t.detach().cpu() for n, t in parameters_of(run.network).items()} for run in (first, second))
    moved = [{n: t - run.initial[n] for n, t in own.items()} for own, run in ((ours, first), (theirs, second))]
    return PairGeometry(
        first=first.target,
        second=second.target,
        weights=tuple(layer_geometry(ours, theirs)),
        differences=tuple(layer_geometry(*moved)) if shared else (),
    )
