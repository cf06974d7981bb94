"""Every learner on one pair over several seeds: the comparison's course."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from metasum.assembly.cells import Cells, check_learners, tune
from metasum.assembly.parts import load_pair, open_grid, resolve, settings_for
from metasum.baselines.registry import LEARNERS, learner_named
from metasum.config import TrainConfig, changed, to_dict
from metasum.errors import CheckpointError, UsageError
from metasum.files import make_folder, write_json, write_text
from metasum.plugins import load_entry_points
from metasum.results.comparison import ComparisonResult, ComparisonRow, RunCurves, summarise
from metasum.results.comparison_tables import rows_table
from metasum.results.pictures import Analysis
from metasum.results.run import RunResult
from metasum.results.spreadsheet import as_csv
from metasum.results.surroundings import Failed, Tuned
from metasum.study.tracking import for_runs, track_study
from metasum.training.description import describe_dataset, describe_surroundings
from metasum.training.progress import Display, SilentDisplay
from metasum.training.run_folder import RunFolder
from metasum.training.tracking import check_tracking
from metasum.training.wandb_runs import TrackerTroubles
from metasum.types import Dataset, Sides
from metasum.weights.geometry import layer_geometry


def compare(
    config: TrainConfig | None = None,
    *,
    learners: Sequence[str] | None = None,
    seeds: int = 3,
    tuned: bool = True,
    by_hand: Collection[str] = (),
    out: Path | str = "runs",
    download: bool = False,
    displays: Callable[[], Display] = SilentDisplay,
) -> ComparisonResult:
    """Runs every learner on one pair over seeds `config.seed`, `config.seed` + 1, …, and writes the comparison.

    All train with equal steps, data, order of batches and initialisation. Merging methods take the networks that
    `independent` trained. Finished runs are taken as they are, unfinished ones are continued, so that calling it
    again goes on where it was stopped.

    Args:
        config: what the runs share [default: the embedded pair].
        learners: names [default: all that are registered].
        seeds: how many.
        tuned: choose the settings that a learner has candidates for on validation images of the first seed (a fixed
            tenth of the training images, which those runs do not train on).
        by_hand: settings that are not to be chosen so, though they are at their defaults; others never are.
        out: the run folders are in `<out>/<target>+<support>`, the comparison in its folder `comparison`.
        download: let torchvision fetch a dataset that is not there.
        displays: makes what is told about each run's progress.

    Returns:
        What results.json holds: rows, summary, failed, tuning and what they have in common.

    Raises:
        MetaSumError: the settings fit no network, or the data is not there. A single run's failure is in its `failed`.
    """
    config = config or TrainConfig()
    load_entry_points()
    names = list(LEARNERS) if learners is None else list(learners)
    datasets = prepare(config, names, seeds, download=download)
    folder = Path(out) / f"{config.data.target}+{config.data.support}"
    place, troubles = folder / "comparison", TrackerTroubles()
    results, failed, tuning = run_cells(
        for_runs(config, place),
        datasets,
        names,
        seeds,
        folder=folder,
        tuned=tuned,
        by_hand=by_hand,
        displays=displays,
        troubles=troubles,
    )
    rows = tuple(ComparisonRow.of(result) for result in results)
    comparison = ComparisonResult(
        target=config.data.target,
        support=config.data.support,
        rows=rows,
        summary=summarise(rows),
        failed=tuple(failed),
        tuning=tuning,
        first_seed=_closer_looks([result for result in results if result.seed == config.seed]),
        evaluated_on=config.data.evaluate_on,
        settings=to_dict(resolve(settings_for(names[0], config), datasets)),
        data={side: describe_dataset(data) for side, data in datasets._asdict().items()},
        **describe_surroundings(),
        comparison=str(place),
    )
    make_folder(place)
    write_text(place / "results.csv", as_csv(rows_table(comparison)))
    write_json(place / "results.json", comparison.to_json())
    from metasum.report.study_pages import write_comparison_report

    write_comparison_report(place)
    track_study(config, place, comparison, note=displays().note, troubles=troubles)
    return comparison


def _closer_looks(results: Sequence[RunResult]) -> dict[str, RunCurves]:
    """By learner, of the runs that trained networks of their own and were looked into when they ended."""
    looks = {}
    for result in results:
        run = RunFolder.open(Path(result.run))
        if result.endpoints is None and (run.path / "analysis.json").is_file():
            with contextlib.suppress(CheckpointError):  # damaged files cost a learner its curves, not everybody's table
                looks[result.learner] = _closer_look(run)
    return looks


def _closer_look(run: RunFolder) -> RunCurves:
    """What pictures of several learners show of one run: the way of its sum, its line, its layers."""
    evaluations = [record for record in run.metrics() if record["kind"] == "evaluation"]
    return RunCurves(
        steps=tuple(record["step"] for record in evaluations),
        after=tuple(record["accuracy"]["target"]["after"] for record in evaluations),
        interpolation=Analysis.of(run.path).interpolation,
        layers=tuple(layer_geometry(run.weights("target"), run.weights("support"))),
    )


def prepare(
    config: TrainConfig, names: Sequence[str], seeds: int, *, download: bool, number: int = 0
) -> Sides[Dataset]:
    """The pair's datasets, once settings, learners and data have been found to fit together."""
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {seeds}.")
    check_tracking(config.tracking)
    datasets = load_pair(config, download=download)
    check_learners(names, config, datasets, number=number)
    return datasets


def run_cells(
    config: TrainConfig,
    datasets: Sides[Dataset],
    names: Sequence[str],
    seeds: int,
    *,
    folder: Path,
    tuned: bool,
    by_hand: Collection[str],
    displays: Callable[[], Display],
    number: int = 0,
    troubles: TrackerTroubles | None = None,
) -> tuple[list[RunResult], list[Failed], dict[str, Tuned]]:
    """Tunes, then runs every learner and seed; `number` and `troubles` as in `Cells`.

    Returns:
        The results, learner by learner; the failed runs; and, under each tuned learner's name, what was chosen for it.
    """
    failed: list[Failed] = []
    tuning: dict[str, Tuned] = {}
    more: dict[str, Any] = {"number": number, "troubles": troubles or TrackerTroubles()}
    if tuned:
        on_validation = changed(config, evaluate_on="validation", evaluate_every=0)
        trials = Cells(on_validation, datasets, folder / "validation", folder.parent, displays, failed, **more)
        grids = {name: open_grid(name, config, by_hand) for name in names}
        trials.total = sum(map(len, grids.values()))
        for name, grid in grids.items():
            found = tune(trials, name, config.seed, grid)
            if found.tried:
                tuning[name] = found
    cells = Cells(config, datasets, folder, folder.parent, displays, failed, total=seeds * len(names), **more)
    results = []
    order = sorted(names, key=lambda name: learner_named(name).endpoints is not None)  # what is merged comes first
    for seed in range(config.seed, config.seed + seeds):
        for name in order:
            chosen = tuning[name].chosen if name in tuning else {}
            report = seed == config.seed and learner_named(name).endpoints is None
            result = cells.run(name, seed, chosen, report=report)
            results += [] if result is None else [result]
    results.sort(key=lambda result: (names.index(result.learner), result.seed))
    return results, failed, tuning
