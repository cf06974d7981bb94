"""The network that a sum of finished runs makes, as files: one, or where heads are kept, one for each head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from metasum.errors import UsageError
from metasum.files import json_text
from metasum.networks.beside import metadata_of
from metasum.results.strangers import SumResult
from metasum.strangers.datasets import union_of
from metasum.strangers.heads import owners
from metasum.strangers.runs import FinishedRun
from metasum.types import Task
from metasum.weights.statistics import recalibrate
from metasum.weights.storage import save_weights


def files_for(path: Path, overwrite: bool, heads: Sequence[str]) -> dict[str, Path]:
    """Where the network is exported to, by the dataset whose head it has; "" where there is one for all.

    Raises:
        UsageError: it could not be, or there is a file.
    """
    if not path.parent.is_dir():
        raise UsageError(f"--export {path}: there is no folder {path.parent}.")
    files = {name: path.with_name(f"{path.stem}-{name}{path.suffix}") for name in heads} or {"": path}
    for file in files.values():
        if file.exists() and not overwrite:
            raise UsageError(f"--export {file} is there already; use --overwrite to replace it.")
    return files


def write_networks(
    files: Mapping[str, Path],
    networks: Mapping[str, nn.Module],
    result: SumResult,
    tasks: Mapping[str, Task],
    runs: Sequence[FinishedRun],
) -> None:
    """Writes the network as it can be deployed: with statistics of the union, where it has not every network's own.

    Args:
        files: see `files_for`.
        networks: by dataset; statistics of the union are put into them.
        result: what was measured.
        tasks: the datasets of the union, at least.
        runs: whose networks were added.
    """
    names = list(result.accuracy.datasets)
    union = union_of({name: tasks[name] for name in names})
    for head, file in files.items():
        network = networks[head or names[0]]
        if result.accuracy.union.sum_own_statistics is None:
            recalibrate(network, union.calibration(result.calibration_batches))
        run = runs[owners(runs, [head])[head]] if head else runs[0]
        told = {"architecture": run.plan.architecture, "operator": result.operator, "datasets": json_text(names)}
        told |= {"head": head} if head else {}
        save_weights(file, network.state_dict(), metadata={**told, **metadata_of(network)})
