"""Step 3: the sum of target networks that were trained apart."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metasum.assembly.endpoints import FinishedRun, check_addable, describe_run, endpoints_of, open_run, tasks_of
from metasum.config import MergingConfig, OptimisationConfig
from metasum.errors import UsageError
from metasum.files import check_folder_name, make_folder, write_json
from metasum.merging import memory, method_named
from metasum.networks.build import architecture
from metasum.plugins import load_entry_points
from metasum.results.strangers import LineBetween, PairGeometry, SumResult
from metasum.study.sums import Ground, Measured
from metasum.tasks.task import ImageTask
from metasum.tasks.union import UnionTask
from metasum.training.analysis import interpolate, mistakes
from metasum.training.description import describe_surroundings
from metasum.training.evaluation import confusion, share_right
from metasum.training.optimisation import make_fabric
from metasum.training.progress import Display, SilentDisplay
from metasum.types import Task
from metasum.weights.geometry import layer_geometry
from metasum.weights.parameters import parameters_of, with_parameters
from metasum.weights.storage import save_weights

ALWAYS = ("sum", "average", "task-arithmetic")  # operators that every sum is measured under


def sum_runs(
    runs: Sequence[Path | str],
    *,
    on: Sequence[str] = (),
    operator: str = "sum",
    merging: MergingConfig | None = None,
    any_init: bool = False,
    export: Path | None = None,
    out: Path | str = "runs",
    name: str | None = None,
    overwrite: bool = False,
    data_root: Path | None = None,
    download: bool = False,
    device: str = "auto",
    display: Display | None = None,
) -> SumResult:
    """Adds the target networks of finished runs, and measures the sum on each dataset and on their union.

    Args:
        runs: folders of two or more finished runs of one architecture.
        on: datasets to measure on [default: the runs' targets].
        operator: what becomes of the networks: "sum", or any merging method's name.
        merging: what the merging methods leave open.
        any_init: add runs of different initialisations, too.
        export: write the result, with the union's statistics, to this .safetensors file.
        out: the result goes to `<out>/sums/<name>`.
        name: [default: `<target>+<target>…-<operator>`].
        overwrite: replace a result that is there.
        data_root: where the datasets lie [default: where the runs found them].
        download: let torchvision fetch a dataset that is not there.
        device: "auto", "cpu", "cuda" or "mps".
        display: what is told about progress [default: nothing].

    Returns:
        What result.json holds; for instance `accuracy.datasets["digits"].sum`, or `sum`, the folder.

    Raises:
        MetaSumError: the runs do not belong together, or something is missing; nothing is left half-written.
    """
    merging, display = merging or MergingConfig(), display or SilentDisplay()
    load_entry_points()
    _check_operator(operator, merging)
    opened = [open_run(Path(run)) for run in runs]
    check_addable(opened, any_init=any_init)
    same_start = len({run.initial_checksum for run in opened}) == 1
    if method_named(operator, kind="operator").needs_base and not same_start:
        raise UsageError(
            f"--operator {operator} works on differences from one initialisation; these runs have several."
        )
    names = list(dict.fromkeys(on or [run.target for run in opened]))
    label = name or f"{'+'.join(run.target for run in opened)}-{operator}"
    check_folder_name("--name", label)
    folder = Path(out) / "sums" / label
    _check_places(folder, export, overwrite)
    fabric = make_fabric(OptimisationConfig(device=device))
    looked_at = [run.target for run in opened] if method_named(operator).needs_images else []
    loaded = tasks_of(opened, [*names, *looked_at], data_root=data_root, device=fabric.device, download=download)
    tasks = {dataset: loaded[dataset] for dataset in names}
    make_folder(folder)
    batches = max(run.config.sum.calibration_batches for run in opened)
    ground = Ground(tasks, UnionTask(list(tasks.values())), batches)
    for run in opened:
        run.network.to(fabric.device)
    endpoints = endpoints_of(opened, loaded, batches=batches)
    measured: dict[str, Measured] = {}
    networks: dict[str, nn.Module] = {}
    for method in dict.fromkeys([operator, *ALWAYS]):
        if same_start or not method_named(method).needs_base:
            display.note(f"{method} of {len(opened)} networks on {', '.join(names)} …")
            networks[method] = merge(method, endpoints, opened[0], merging)
            measured[method] = ground.measure(networks[method])
    result = {
        "operator": operator,
        "runs": [describe_run(run) for run in opened],
        **_findings(operator, measured, opened, tasks, networks[operator]),
        "same_initialisation": same_start,
        "evaluated_on": opened[0].config.data.evaluate_on,
        "merging": dataclasses.asdict(merging),
        "calibration_batches": batches,
        **describe_surroundings(),
        "interpolation": _lines(opened, tasks, display),
        "geometry": [_geometry(*pair, same_start) for pair in itertools.combinations(opened, 2)],
        "sum": str(folder),
    }
    if export is not None:
        metadata = {"architecture": architecture(opened[0].config), "operator": operator, "datasets": json.dumps(names)}
        save_weights(export, networks[operator].state_dict(), metadata=metadata)
        result["export"] = str(export)
    found = SumResult.parse(result, where="the sum")
    write_json(folder / "result.json", found.to_json())
    from metasum.report.study_pages import write_sum_report

    write_sum_report(folder)
    return found


def _check_operator(operator: str, merging: MergingConfig) -> None:
    """Raises UsageError for an unknown operator, or a merging setting that it does not read."""
    method_named(operator, kind="operator")
    configs = [method_named(method).Config for method in (operator, *ALWAYS)]
    read = {setting.name for config in configs for setting in dataclasses.fields(config)}
    for setting in dataclasses.fields(merging):
        if setting.name not in read and getattr(merging, setting.name) != setting.default:
            raise UsageError(f"--{setting.name.replace('_', '-')} says nothing to --operator {operator}.")


def _check_places(folder: Path, export: Path | None, overwrite: bool) -> None:
    """Raises UsageError, before anything is measured, where the result or the exported file could not be written."""
    if (folder / "result.json").exists() and not overwrite:
        raise UsageError(f"{folder} holds a result; use --overwrite to replace it, or another --name.")
    if export is not None and not export.parent.is_dir():
        raise UsageError(f"--export {export}: there is no folder {export.parent}.")
    if export is not None and export.exists() and not overwrite:
        raise UsageError(f"--export {export} is there already; use --overwrite to replace it.")


def _findings(
    operator: str,
    measured: Mapping[str, Measured],
    runs: Sequence[FinishedRun],
    tasks: Mapping[str, Task],
    network: nn.Module,
) -> dict[str, Any]:
    """Accuracies and confusions, before and after, and images that `network`, the result, gets wrong."""
    own, found = _alone(runs, tasks), measured[operator]
    shares = {dataset: share_right(matrix) for dataset, matrix in own.items()}
    alone = {dataset: {"alone": shares.get(dataset)} for dataset in tasks}
    return {
        "accuracy": {dataset: alone.get(dataset, {}) | values for dataset, values in found.accuracy.items()},
        "by_operator": {method: measurement.accuracy for method, measurement in measured.items()},
        "confusion": {
            dataset: {"alone": own[dataset].tolist() if dataset in own else None, "sum": matrix.tolist()}
            for dataset, matrix in found.confusion.items()
        },
        "mistakes": {
            run.target: mistakes(run.network, network, tasks[run.target]) for run in runs if run.target in tasks
        },
    }


def merge(operator: str, endpoints: Sequence[memory.Endpoint], run: FinishedRun, merging: MergingConfig) -> nn.Module:
    """The merged network, with nobody's statistics yet. `run`: the first, whose initialisation is θ_0."""
    device = next(run.network.parameters()).device
    initial = {name: tensor.to(device) for name, tensor in run.initial.items()}
    method = method_named(operator).picked(merging, seed=run.config.seed)
    return with_parameters(run.network, memory.merge(method, endpoints, initial))


def _alone(runs: Sequence[FinishedRun], tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """For each dataset that a run was trained on, the confusions of its network, added up where there are several."""
    own: dict[str, Tensor] = {}
    for run in runs:
        if run.target in tasks:
            matrix = confusion(run.network, tasks[run.target].evaluation())
            own[run.target] = own[run.target] + matrix if run.target in own else matrix
    return own


def _geometry(first: FinishedRun, second: FinishedRun, same_start: bool) -> PairGeometry:
    """Angles and lengths between two networks' layers, and of what they are apart from a shared initialisation."""
    ours, theirs = ({n: t.detach().cpu() for n, t in parameters_of(run.network).items()} for run in (first, second))
    moved = [{n: t - run.initial[n] for n, t in own.items()} for own, run in ((ours, first), (theirs, second))]
    return PairGeometry(
        first=first.target,
        second=second.target,
        weights=tuple(layer_geometry(ours, theirs)),
        differences=tuple(layer_geometry(*moved)) if same_start else (),
    )


def _lines(runs: Sequence[FinishedRun], tasks: dict[str, ImageTask], display: Display) -> list[LineBetween]:
    """Accuracy along the line between every two networks."""
    lines = []
    for first, second in itertools.combinations(runs, 2):
        display.note(f"along the line from {second.target} to {first.target} …")
        line = interpolate(first.network, second.network, tasks)
        lines.append(LineBetween(line.alphas, line.accuracy, ends=(second.target, first.target)))
    return lines
