"""`metasum sum`: the sum of target networks that were trained apart, measured and shown."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from metasum.arguments import checked
from metasum.errors import UsageError
from metasum.files import check_folder_name, write_json
from metasum.merging.method import Method
from metasum.ownership import owning
from metasum.plugins import load_entry_points
from metasum.report.sum_page import write_sum_report
from metasum.results.strangers import SummedRun, SumResult
from metasum.run.description import describe_surroundings
from metasum.strangers.datasets import tasks_of
from metasum.strangers.exporting import files_for, write_networks
from metasum.strangers.measuring import MeasuredNetwork, beside_alone, kept_statistics, measure, networks_alone
from metasum.strangers.opinions import opinions_of
from metasum.strangers.pairs import geometry_of, lines_between
from metasum.strangers.request import SumRequest
from metasum.strangers.runs import FinishedRun, check_addable, endpoints_of, merge_runs, open_run, same_start
from metasum.tasks.task import ImageTask
from metasum.training.analysis import mistakes
from metasum.training.optimisation import make_fabric
from metasum.training.progress import Display, SilentDisplay
from metasum.types import Task


@checked
def sum_runs(
    runs: Sequence[Path | str],
    request: SumRequest | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    overwrite: bool = False,
    export: Path | str | None = None,
    report: bool = True,
    display: Display | None = None,
) -> SumResult:
    """Adds the target networks of finished runs, and measures the sum on each dataset and on their union.

    Args:
        runs: folders of two or more finished runs of one architecture.
        request: what becomes of the networks, and what they are measured on [default: the sum, on their own datasets].
        out: the result goes to `<out>/sums/<name>`.
        name: [default: `<target>+<target>…-<operator>`, with own heads `-own-heads` behind it].
        overwrite: replace a result that is there.
        export: write the result to this .safetensors file, with every network's own statistics where it can have
            them, else with the union's. With own heads, a file for each dataset, `<name>-<dataset>.safetensors`.
        report: draw report.html.
        display: what is told about progress [default: nothing].

    Returns:
        What result.json holds; for instance `accuracy.datasets["digits"].sum`, or `sum`, the folder.

    Example:
        >>> runs = ["runs/digits+letters/metasum-seed0", "runs/printed-digits+letters/metasum-seed0"]
        >>> result = sum_runs(runs, SumRequest(on=("digits", "printed-digits")), export="both.safetensors")
        >>> result.accuracy.datasets["digits"].sum

    Raises:
        MetaSumError: the runs do not belong together, or something is missing; nothing is left half-written.
    """
    request, display = request or SumRequest(), display or SilentDisplay()
    load_entry_points()
    opened = [open_run(Path(run), heads=request.heads) for run in runs]
    check_addable(opened, any_init=request.any_init)
    operator, methods, datasets = request.operator_for(opened), request.methods(opened), request.datasets(opened)
    name = request.name_for(opened) if name is None else name
    check_folder_name("--name", name)
    folder = Path(out) / "sums" / name
    heads = datasets if request.heads == "own" else []
    files = {} if export is None else files_for(Path(export), overwrite, heads)
    _check_free(folder, overwrite)
    tasks = _tasks(opened, request, needs_images=methods[operator].needs_images)
    with owning(folder, note=display.note):
        _check_free(folder, overwrite)  # another process may have been quicker
        found, networks = _measure(opened, methods, tasks, datasets, display)
        result = SumResult(
            operator=operator,
            heads=request.heads,
            runs=tuple(_summed_run(run, folder, Path(out)) for run in opened),
            same_initialisation=same_start(opened),
            evaluated_on=opened[0].plan.data.evaluate_on,
            **found,
            **describe_surroundings(),
            sum=str(folder),
            export=None if export is None else str(export),
        )
        write_networks(files, networks, result, tasks, opened)
        for file in files.values():
            display.note(f"exported: {file}")
        write_json(folder / "result.json", result.to_json())
        if report:
            write_sum_report(folder)
    return result


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raises UsageError where there is a result that is not to be replaced."""
    if (folder / "result.json").exists() and not overwrite:
        raise UsageError(f"{folder} holds a result; use --overwrite to replace it, or another --name.")


def _tasks(runs: Sequence[FinishedRun], request: SumRequest, *, needs_images: bool) -> dict[str, ImageTask]:
    """The datasets to measure on, and those that the operator looks at; the runs' networks move to their device."""
    device = make_fabric(request.device).device
    looked_at = [run.target for run in runs] if needs_images else []
    root = None if request.data_root is None else Path(request.data_root)
    names = [*request.datasets(runs), *looked_at]
    tasks = tasks_of(runs, names, data_root=root, device=device, download=request.download)
    for run in runs:
        run.network.to(device)
    return tasks


def _measure(
    runs: Sequence[FinishedRun],
    methods: Mapping[str, Method],
    loaded: Mapping[str, Task],
    names: Sequence[str],
    display: Display,
) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """Fields of the result, and what the first method makes, with every network's own statistics or anybody's.

    The first method is the operator; `names` are those of the datasets to measure on.
    """
    tasks = {name: loaded[name] for name in names}
    batches = max(run.plan.evaluation.calibration_batches for run in runs)
    endpoints = endpoints_of(runs, loaded, batches=batches)
    merged: dict[str, dict[str, nn.Module]] = {}
    measured: dict[str, MeasuredNetwork] = {}
    for name, method in methods.items():
        display.note(f"{name} of {len(runs)} networks on {', '.join(names)} …")
        merged[name] = merge_runs(runs, endpoints, method, tasks)
        own = kept_statistics(runs, method, merged[name][names[0]])
        measured[name] = measure(merged[name], tasks, batches, kept=own)
    operator, alone = next(iter(methods)), networks_alone(runs, tasks, batches)
    kept = measured[operator].accuracy.union.sum_own_statistics is not None
    found = {
        **beside_alone(measured[operator], alone),
        "by_operator": {name: each.accuracy for name, each in measured.items()},
        "mistakes": {
            own.dataset: mistakes(
                own.trained if kept else own.network, measured[operator].networks[own.dataset], tasks[own.dataset]
            )
            for own in alone
        },
        "merging": dict(ChainMap(*(vars(method.config) for method in methods.values()))),
        "calibration_batches": batches,
        "opinions": None if runs[0].kept else opinions_of(runs, tasks),  # they are of what the heads add up to
        "interpolation": lines_between(runs, tasks, display),
        "geometry": geometry_of(runs),
    }
    return found, merged[operator]


def _summed_run(run: FinishedRun, folder: Path, out: Path) -> SummedRun:
    """What the result says of a run; where both lie in `out`, its folder as seen from the result's."""
    data, place = run.plan.data, run.folder.resolve()
    inside = place.is_relative_to(out.resolve())
    return SummedRun(
        run=os.path.relpath(place, folder.resolve()).replace(os.sep, "/") if inside else str(place),
        target=data.target,
        support=data.support,
        learner=run.plan.learner,
        seed=run.plan.seed,
        initial_checksum=run.initial_checksum,
        data_checksum=run.data_checksum,
        further_data=run.further_data or None,
    )
