"""Steps 1, 2 and 3 in one: train every target with the support, then add the target networks, which never met."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from metasum.assembly.comparing import prepare, run_cells
from metasum.assembly.meeting import Meeting
from metasum.assembly.meta_training import meta_datasets
from metasum.assembly.parts import resolve, settings_for
from metasum.baselines.registry import LEARNERS, learner_named
from metasum.config import TrainConfig, changed, to_dict
from metasum.errors import Interrupted, MetaSumError, UsageError, reason
from metasum.files import check_folder_name, make_folder, write_json, write_text
from metasum.merging import method_named
from metasum.plugins import load_entry_points
from metasum.results.experiment import ExperimentResult, ExperimentRow, summarise
from metasum.results.experiment_tables import rows_table
from metasum.results.pictures import Line
from metasum.results.run import RunResult
from metasum.results.spreadsheet import as_csv
from metasum.results.surroundings import Failed, Tuned
from metasum.study.tracking import for_runs, track_study
from metasum.training.description import describe_dataset, describe_surroundings
from metasum.training.progress import Display, SilentDisplay
from metasum.training.wandb_runs import TrackerTroubles
from metasum.types import Dataset, Sides


def experiment(
    config: TrainConfig | None = None,
    *,
    targets: Sequence[str] = ("digits", "printed-digits"),
    learners: Sequence[str] | None = None,
    seeds: int = 3,
    tuned: bool = True,
    by_hand: Collection[str] = (),
    out: Path | str = "runs",
    download: bool = False,
    displays: Callable[[], Display] = SilentDisplay,
) -> ExperimentResult:
    """Trains every learner on each target with the support, then adds each learner's target networks.

    A merging method merges the target networks that `independent` trained; every other learner's are added plainly.
    What is finished is taken as it is, so that calling it again goes on where it was stopped; runs are shared with
    `compare`.

    Args:
        config: what the runs share; its target is replaced by each of `targets`.
        targets: datasets, two or more, of at most as many classes as the first pair has.
        learners: names [default: all whose networks share their initialisation].
        seeds: how many, counted up from `config.seed`.
        tuned: choose open settings on validation images of the first seed, in all three steps.
        by_hand: settings that are not to be chosen so, though they are at their defaults; others never are.
        out: the runs are in `<out>/<target>+<support>`, the results in `<out>/experiments/<targets>+<support>`.
        download: let torchvision fetch a dataset that is not there.
        displays: makes what is told about each run's progress.

    Returns:
        What results.json holds: rows, summary, failed, tuning, lines and what they have in common.

    Raises:
        MetaSumError: settings, data or learners do not fit together. A single run's failure is in its `failed`.
    """
    config = config or TrainConfig()
    load_entry_points()
    names = _learners(learners, len(targets), config.slots.slots)
    if len(set(targets)) < 2 or len(set(targets)) < len(targets):
        raise UsageError(f"--targets takes two or more different datasets, not {', '.join(targets) or 'none'}.")
    if config.sum.statistics != "recalibrate":
        raise UsageError("--statistics: sums of strangers are measured with recalibrated statistics.")
    if config.slots.slot:
        raise UsageError("--slot: an experiment numbers its targets by itself.")
    if config.sum.operator == "learned":
        raise UsageError("--operator learned: its coefficients belong to a pair; strangers have none.")
    if any(learner_named(name).meta_learnt for name in names) and config.network.init is None:
        meta_datasets(config, held_out=targets)
    label = f"{'+'.join(targets)}+{config.data.support}"
    check_folder_name("--targets", label)
    configs = {target: changed(config, target=target) for target in targets}
    datasets = {
        target: prepare(own, names, seeds, download=download, number=number)
        for number, (target, own) in enumerate(configs.items())
    }
    configs = _of_one_shape(configs, datasets, names[0])
    results: dict[str, list[RunResult]] = {}
    failed: list[Failed] = []
    tuning: dict[str, dict[str, Tuned]] = {}
    place, troubles = Path(out) / "experiments" / label, TrackerTroubles()
    folders = {target: Path(out) / f"{target}+{config.data.support}" for target in targets}
    for number, (target, own) in enumerate(configs.items()):
        results[target], lost, tuning[target] = run_cells(
            for_runs(own, place),
            datasets[target],
            names,
            seeds,
            folder=folders[target],
            tuned=tuned,
            by_hand=by_hand,
            displays=displays,
            number=number,
            troubles=troubles,
        )
        failed += lost
    make_folder(place)
    meeting = Meeting(config, place, displays)
    rows: list[ExperimentRow] = []
    lines: dict[str, Line] = {}
    tuning["strangers"] = {}
    for name in names:
        try:
            if tuned:
                tuning["strangers"] |= meeting.tune(name, list(folders.values()), by_hand)
            chosen = tuning["strangers"][name].chosen if name in tuning["strangers"] else {}
            for seed in range(config.seed, config.seed + seeds):
                own_results = [r for t in targets for r in results[t] if (r.learner, r.seed) == (name, seed)]
                if len(own_results) == len(targets):
                    runs = [Path(result.run) for result in own_results]
                    met = meeting.measure(name, seed, runs, chosen, line=seed == config.seed)
                    rows.append(ExperimentRow.of(own_results, met.accuracy))
                    lines |= {} if met.line is None else {name: met.line}
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 (whatever one learner's sum dies of, the others go on)
            sentence = str(error) if isinstance(error, MetaSumError) else f"{type(error).__name__}: {reason(error)}"
            failed.append(Failed(name, config.seed, sentence, str(place / name)))
    shown = resolve(settings_for(names[0], configs[targets[0]]), datasets[targets[0]])
    report = ExperimentResult(
        targets=tuple(targets),
        support=config.data.support,
        rows=tuple(rows),
        summary=summarise(rows),
        failed=tuple(failed),
        tuning=tuning,
        lines=lines,
        evaluated_on=config.data.evaluate_on,
        settings=to_dict(changed(shown, target=", ".join(targets))),
        data={name: describe_dataset(pair.target) for name, pair in datasets.items()}
        | {config.data.support: describe_dataset(datasets[targets[0]].support)},
        **describe_surroundings(),
        experiment=str(place),
    )
    write_text(place / "results.csv", as_csv(rows_table(report)))
    write_json(place / "results.json", report.to_json())
    from metasum.report.study_pages import write_experiment_report

    write_experiment_report(place)
    track_study(config, place, report, note=displays().note, troubles=troubles)
    return report


def _of_one_shape(
    configs: dict[str, TrainConfig], datasets: dict[str, Sides[Dataset]], learner: str
) -> dict[str, TrainConfig]:
    """The settings with as many classes for all as any dataset has, so that all networks can be added.

    Raises:
        UsageError: the pairs' recipes differ in width, and --width was not given.
    """
    classes = max(data.num_classes for pair in datasets.values() for data in pair)
    shaped = {t: own if own.network.num_classes else changed(own, num_classes=classes) for t, own in configs.items()}
    widths = {t: resolve(settings_for(learner, own), datasets[t]).network.width for t, own in shaped.items()}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{width:g} for {target}" for target, width in widths.items())
        raise UsageError(f"the pairs' recipes ask for different widths ({told}); give one with --width.")
    return shaped


def _learners(learners: Sequence[str] | None, targets: int, slots: int) -> list[str]:
    """Those asked for, or all whose target networks are their own and can be added.

    Raises:
        UsageError: an unknown learner, one that differs from another in its support's initialisation only, or one
            that merges two networks where there are more targets.
    """
    alike = {name for name, entry in LEARNERS.items() if entry.two_initialisations}
    for name in learners or ():
        learner_named(name)
        if name in alike:
            raise UsageError(
                f"learner {name!r} gives the support another initialisation; its target networks are those of "
                "'independent', and so is their sum."
            )
        if not _merges(name, targets):
            raise UsageError(f"learner {name!r} does not merge {targets} networks, one for each target.")
    if learners is not None:
        return list(learners)
    crowded = {name for name, entry in LEARNERS.items() if entry.numbered and targets > slots}
    return [name for name in LEARNERS if name not in alike | crowded and _merges(name, targets)]


def _merges(learner: str, count: int) -> bool:
    """Whether the learner can make one of so many networks."""
    merger = LEARNERS[learner].merger
    return merger is None or method_named(merger).exactly in (None, count)
