"""Every two of the networks beside one another: the line between them, and the angles of their layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from metasum.results.strangers import (
    LineBetween,
    PairGeometry,
)
from metasum.strangers.heads import owners
from metasum.strangers.runs import FinishedRun, same_start
from metasum.training.analysis import interpolate
from metasum.training.progress import Display
from metasum.types import Task
from metasum.weights.geometry import layer_geometry


def lines_between(runs: Sequence[FinishedRun], tasks: Mapping[str, Task], display: Display) -> tuple[LineBetween, ...]:
    """Accuracy along the line between every two networks; where they keep heads, each dataset is shown its own's."""
    lines = []
    heads = {name: runs[index].network for name, index in owners(runs, tasks).items()} if runs[0].kept else None
    for first, second in itertools.combinations(runs, 2):
        display.note(f"along the line from {second.target} to {first.target} …")
        line = interpolate(first.network, second.network, tasks, heads=heads)
        lines.append(LineBetween(line.alphas, line.accuracy, ends=(second.target, first.target)))
    return tuple(lines)


def geometry_of(runs: Sequence[FinishedRun]) -> tuple[PairGeometry, ...]:
    """Angles and lengths between every two networks' summed layers, and of what they are apart from a shared start."""
    found = []
    for first, second in itertools.combinations(runs, 2):
        ours, theirs = ({n: t.detach().cpu() for n, t in run.summed.items()} for run in (first, second))
        moved = ({n: t - run.initial[n] for n, t in own.items()} for own, run in ((ours, first), (theirs, second)))
        found.append(
            PairGeometry(
                first=first.target,
                second=second.target,
                weights=tuple(layer_geometry(ours, theirs)),
                differences=tuple(layer_geometry(*moved)) if same_start(runs) else (),
            )
        )
    return tuple(found)
