"""Every learner on one pair over several seeds: the comparison's course."""

from __future__ import annotations

import contextlib
from functools import partial

from metasum.baselines.registry import ANCHORS, learner_named
from metasum.errors import CheckpointError
from metasum.files import make_folder, write_json, write_text
from metasum.plugins import load_entry_points
from metasum.report.study_pages import write_comparison_report
from metasum.results.comparison import ComparisonResult, ComparisonRow, RunCurves, summarise
from metasum.results.comparison_tables import rows_table
from metasum.results.exports import as_csv
from metasum.results.pictures import Analysis
from metasum.results.run import RunResult
from metasum.run.description import describe_dataset, describe_surroundings
from metasum.study.asking import learners_asked
from metasum.study.checks import check, study_of
from metasum.study.engine.display import SilentStudy, StudyDisplay
from metasum.study.engine.sequential import Engine, Sequential
from metasum.study.kept import data_kept, pair
from metasum.study.request import OWN_HEADS, Study, StudyRequest
from metasum.study.tracking import track_study
from metasum.study.training import Outcomes, failures_of, runs_of, training_cells, tuning_of
from metasum.training.run_folder import RunFolder
from metasum.weights.geometry import layer_geometry


def compare(
    asked: StudyRequest | None = None, *, engine: Engine | None = None, display: StudyDisplay | None = None
) -> ComparisonResult:
    """Runs every learner on one pair over several seeds, and writes the comparison.

    All train with equal steps, data, order of batches and initialisation. Merging methods take the networks that
    another learner trained. Finished runs are taken as they are, unfinished ones are continued, so that calling it
    again goes on where it was stopped.

    Args:
        asked: which runs [default: every learner on the embedded pair]. The comparison is in the folder `comparison`
            beside them, with own heads in `comparison-own-heads`.
        engine: what runs them [default: one after the other].
        display: is told about progress [default: nothing].

    Returns:
        What results.json holds: rows, summary, failed, tuning and what they have in common. Folders of runs are as
        seen from that of the comparison.

    Raises:
        MetaSumError: the settings fit no network, or the data is not there. A single run's failure is in its `failed`.
    """
    asked, engine, display = asked or StudyRequest(), engine or Sequential(), display or SilentStudy()
    load_entry_points()
    target, support = asked.request["target"], asked.request["support"]
    own_heads = asked.request["heads"] == "own"
    place = asked.out / f"{target}+{support}" / f"comparison{OWN_HEADS if own_heads else ''}"
    names = learners_asked(asked.learners, but=partial(_refusal, own_heads=own_heads))
    with data_kept():
        study = study_of(asked, learners=names, targets=(target,), place=place)
        plan = check(study, engine)[target]
        cells = training_cells(study)
        outcomes = engine.run(cells, display=display)
        rows = tuple(
            ComparisonRow.of(result, no_merge=learner_named(result.learner).no_merge)
            for result in runs_of(study, target, outcomes)
        )
        comparison = ComparisonResult(
            target=target,
            support=support,
            heads=asked.request["heads"],
            rows=rows,
            summary=summarise(rows),
            failed=tuple(failures_of(study, cells, outcomes)),
            tuning=tuning_of(study, study.folder(target), outcomes),
            first_seed=_curves_of_first_seed(study, outcomes),
            evaluated_on=plan.data.evaluate_on,
            settings=plan.to_json(),
            data={
                side: describe_dataset(data)
                for side, data in pair(study.request, download=study.download)._asdict().items()
            },
            **describe_surroundings(),
            comparison=str(place),
        )
    make_folder(place)
    write_text(place / "results.csv", as_csv(rows_table(comparison)))
    write_json(place / "results.json", comparison.to_json())
    if study.report:
        write_comparison_report(place)
    track_study(asked.request, place, comparison, note=display.note, troubles=study.troubles)
    return comparison


def _refusal(name: str, *, own_heads: bool) -> str | None:
    """What keeps a learner out of a comparison, in a sentence; None if nothing."""
    if name in ANCHORS:
        return f"{name!r} is trained on all targets of `metasum experiment`; a comparison has anchors of a pair."
    reason = learner_named(name).against_own_heads() if own_heads else None
    return None if reason is None else f"--heads own: learner {name!r} {reason}."


def _curves_of_first_seed(study: Study, outcomes: Outcomes) -> dict[str, RunCurves]:
    """By learner, of the first seed's runs that were looked into when they ended.

    A run that only measures the networks of another has no way of its sum.
    """
    looks, (target,) = {}, study.targets
    for result in runs_of(study, target, outcomes):
        if study.looked_into(result.learner, result.seed):
            run = RunFolder(study.run_path(target, result.learner, result.seed))
            if (run.path / "analysis.json").is_file():
                with contextlib.suppress(CheckpointError):  # damaged files cost a learner its curves, not the table
                    looks[result.learner] = _curves(run)
    return looks


def _curves(run: RunFolder) -> RunCurves:
    """What pictures of several learners show of one run: the way of its sum, its line, its layers."""
    trained = RunFolder(run.networks_folder(run.result(RunResult)))
    evaluations = [record for record in run.metrics() if record["kind"] == "evaluation"]
    return RunCurves(
        steps=tuple(record["step"] for record in evaluations),
        after=tuple(record["accuracy"]["target"]["after"] for record in evaluations),
        interpolation=Analysis.of(run.path).interpolation,
        layers=tuple(layer_geometry(trained.weights("target"), trained.weights("support"))),
    )
