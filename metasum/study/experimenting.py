"""Steps 1, 2 and 3 in one: train every target with the support, then add the target networks, which never met."""

from __future__ import annotations

from collections.abc import Sequence

from metasum.baselines.registry import ANCHORS, learner_named
from metasum.config import flag_of, options_of
from metasum.errors import UsageError
from metasum.files import check_folder_name, make_folder, write_json, write_text
from metasum.learners.learner import Start
from metasum.merging import METHODS
from metasum.plugins import load_entry_points
from metasum.report.study_pages import write_experiment_report
from metasum.results.experiment import ExperimentResult
from metasum.results.experiment_rows import ExperimentRow
from metasum.results.experiment_summary import summarise
from metasum.results.experiment_tables import rows_table
from metasum.results.exports import as_csv
from metasum.results.pictures import Line
from metasum.run.description import describe_dataset, describe_surroundings
from metasum.run.plan import Plan
from metasum.run.request import Request
from metasum.study.asking import learners_asked
from metasum.study.checks import check, of_one_shape, study_of
from metasum.study.engine.cell import Cell
from metasum.study.engine.display import SilentStudy, StudyDisplay
from metasum.study.engine.sequential import Engine, Sequential
from metasum.study.joint_training import joint_training_cells, jointly_trained
from metasum.study.kept import data_kept, dataset
from metasum.study.request import OWN_HEADS, Study, StudyRequest
from metasum.study.strangers import Measurement, measurement_name, operator_of, strangers_cells, strangers_failures
from metasum.study.tracking import track_study
from metasum.study.training import Outcomes, failures_of, runs_of, training_cells, tuning_of
from metasum.weights.statistics_policy import RECALIBRATE

TARGETS = ("digits", "printed-digits")


def experiment(
    asked: StudyRequest | None = None,
    targets: Sequence[str] = TARGETS,
    *,
    engine: Engine | None = None,
    display: StudyDisplay | None = None,
) -> ExperimentResult:
    """Trains every learner on each target with the support, then adds each learner's target networks.

    A merging method merges the target networks that were trained for it; every other learner's are added plainly.
    What is finished is taken as it is, so that calling it again goes on where it was stopped; runs are shared with
    `compare`.

    Args:
        asked: which runs [default: every learner whose networks share their initialisation]. Its target does not
            count. The results are in `<out>/experiments/<targets>+<support>`, with own heads `-own-heads` behind it.
        targets: names of datasets, two or more.
        engine: what runs them [default: one after the other].
        display: is told about progress [default: nothing].

    Returns:
        What results.json holds: rows, summary, failed, tuning, lines and what they have in common.

    Raises:
        MetaSumError: settings, data or learners do not fit together. A single run's failure is in its `failed`.
    """
    asked, engine, display = asked or StudyRequest(), engine or Sequential(), display or SilentStudy()
    load_entry_points()
    with data_kept():
        study = experiment_study(asked, targets)
        plans = check(study, engine)
        cells = [*training_cells(study), *strangers_cells(study), *joint_training_cells(study)]
        outcomes = engine.run(cells, display=display)
        result = _result(study, plans, cells, outcomes)
    make_folder(study.place)
    write_text(study.place / "results.csv", as_csv(rows_table(result)))
    write_json(study.place / "results.json", result.to_json())
    if study.report:
        write_experiment_report(study.place)
    track_study(asked.request, study.place, result, note=display.note, troubles=study.troubles)
    return result


def experiment_study(asked: StudyRequest, targets: Sequence[str]) -> Study:
    """The study of an experiment: what can be said without looking at networks is checked.

    Raises:
        UsageError: settings, targets or learners that make no experiment.
        DatasetError: data is not there.
    """
    if len(set(targets)) < 2 or len(set(targets)) < len(targets):
        raise UsageError(f"--targets takes two or more different datasets, not {', '.join(targets) or 'none'}.")
    names = learners_asked(asked.learners, but=lambda name: refusal(name, len(targets), asked.request))
    label = f"{'+'.join(targets)}+{asked.request['support']}{OWN_HEADS if asked.request['heads'] == 'own' else ''}"
    check_folder_name("--targets", label)
    if asked.request["statistics"] not in (None, RECALIBRATE):
        raise UsageError(
            "--statistics: sums of strangers are measured with recalibrated statistics, and with every network's own "
            "where they have no channel in common; leave it out."
        )
    study = study_of(asked, learners=names, targets=targets, place=asked.out / "experiments" / label)
    for name in study.learners:
        numbered = learner_named(name).numbered
        if numbered in asked.request.given:
            raise UsageError(f"{flag_of(str(numbered))}: an experiment numbers its targets by itself.")
        if operator_of(study, name) == "learned":
            raise UsageError("--operator learned: its coefficients belong to a pair; strangers have none.")
    return of_one_shape(study)


def refusal(name: str, targets: int, request: Request) -> str | None:
    """What keeps a learner's target networks, so many, from being added, in a sentence; None if nothing."""
    if name in ANCHORS:
        return None
    facts = learner_named(name)
    if facts.start is Start.OWN:
        return (
            f"learner {name!r} gives the support another initialisation, of which its target networks know nothing: "
            "they are those of the learner that shares one."
        )
    reason = facts.against_own_heads() if request["heads"] == "own" else None
    if reason is not None:
        return f"--heads own: learner {name!r} {reason}."
    if facts.endpoints is not None and facts.method is None:
        return f"learner {name!r} names no method by which networks of strangers could be merged."
    if facts.method is not None and METHODS.named(facts.method).exactly not in (None, targets):
        return f"learner {name!r} does not merge {targets} networks, one for each target."
    default = next((leaf.default for leaf in options_of(facts.Config) if leaf.name == facts.places), targets)
    places = request.given.get(str(facts.places), default)
    if places < targets:
        return f"{flag_of(str(facts.places))} {places}: learner {name!r} has no place for {targets} targets."
    return None


def _result(study: Study, plans: dict[str, Plan], cells: Sequence[Cell], outcomes: Outcomes) -> ExperimentResult:
    runs = {(r.target, r.learner, r.seed): r for target in study.targets for r in runs_of(study, target, outcomes)}
    rows, lines = list[ExperimentRow](), dict[str, Line]()
    for learner in study.learners:
        for seed in study.seeds:
            measured = outcomes[measurement_name(study, learner, seed)]
            if not isinstance(measured, Measurement):
                continue
            own = [runs[target, learner, seed] for target in study.targets]
            anchor = METHODS.named(operator_of(study, learner)).no_merge()
            rows.append(ExperimentRow.of(own, measured.accuracy, measured.opinions, no_merge=anchor))
            if study.looked_into(learner, seed) and measured.line is not None:
                lines[learner] = measured.line
    joint, failed = jointly_trained(study, outcomes)
    rows += (ExperimentRow.of_one(found, no_merge=ANCHORS.named(found.learner).no_merge) for found in joint)
    names = (*study.targets, study.support)
    first = plans[study.targets[0]]
    return ExperimentResult(
        targets=study.targets,
        support=study.support,
        heads=study.request["heads"],
        rows=tuple(rows),
        summary=summarise(rows),
        failed=(*failures_of(study, cells, outcomes), *strangers_failures(study, outcomes), *failed),
        tuning={
            **{target: tuning_of(study, study.folder(target), outcomes) for target in study.targets},
            "strangers": tuning_of(study, study.place, outcomes),
        },
        lines=lines,
        evaluated_on=first.data.evaluate_on,
        settings=first.having(target=", ".join(study.targets)).to_json(),
        data={name: describe_dataset(dataset(name, study.request, download=study.download)) for name in names},
        **describe_surroundings(),
        experiment=str(study.place),
    )
