"""Steps 1, 2 and 3 in one: train every target with the support, then add the target networks, which never met."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum.assembly.comparing import prepare, run_cells
from metasum.assembly.endpoints import FinishedRun, check_addable, endpoints_of, open_run, tasks_of
from metasum.assembly.summing import merge
from metasum.baselines.mergers import MERGERS
from metasum.baselines.registry import LEARNERS, learner_named
from metasum.config import TrainConfig, changed, flat, to_dict
from metasum.errors import UsageError
from metasum.files import check_folder_name, make_folder, read_json, write_json, write_text
from metasum.plugins import load_entry_points
from metasum.study.comparison import as_csv
from metasum.study.experiment import row_of, summarise
from metasum.study.sums import Ground
from metasum.tasks.union import UnionTask
from metasum.training.analysis import interpolate
from metasum.training.description import describe_dataset, describe_surroundings
from metasum.training.optimisation import make_fabric
from metasum.training.progress import Display, SilentDisplay
from metasum.weights.parameters import checksum, parameters_of


def experiment(
    config: TrainConfig | None = None,
    *,
    targets: Sequence[str] = ("digits", "printed-digits"),
    learners: Sequence[str] | None = None,
    seeds: int = 3,
    tuned: bool = True,
    out: Path | str = "runs",
    download: bool = False,
    displays: Callable[[], Display] = SilentDisplay,
) -> dict[str, Any]:
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
        out: the runs are in `<out>/<target>+<support>`, the results in `<out>/experiments/<targets>+<support>`.
        download: let torchvision fetch a dataset that is not there.
        displays: makes what is told about each run's progress.

    Returns:
        What results.json holds: "rows", "summary", "failed", "tuning", "lines" and what they have in common.

    Raises:
        MetaSumError: settings, data or learners do not fit together. A single run's failure is in "failed".
    """
    config = config or TrainConfig()
    load_entry_points()
    names = _learners(learners)
    if len(set(targets)) < 2 or len(set(targets)) < len(targets):
        raise UsageError(f"--targets takes two or more different datasets, not {', '.join(targets) or 'none'}.")
    label = f"{'+'.join(targets)}+{config.data.support}"
    check_folder_name("--targets", label)
    configs = {target: changed(config, target=target) for target in targets}
    datasets = {target: prepare(own, names, seeds, download=download) for target, own in configs.items()}
    classes = max(data.num_classes for pair in datasets.values() for data in pair)
    if config.network.num_classes is None:  # heads of one size, so that they can be added
        configs = {target: changed(own, num_classes=classes) for target, own in configs.items()}
    results: dict[str, list[dict[str, Any]]] = {}
    failed: list[dict[str, Any]] = []
    tuning: dict[str, Any] = {}
    for target, own in configs.items():
        folder = Path(out) / f"{target}+{config.data.support}"
        results[target], lost, tuning[target] = run_cells(
            own, datasets[target], names, seeds, folder=folder, tuned=tuned, displays=displays
        )
        failed += lost
    place = Path(out) / "experiments" / label
    make_folder(place)
    meeting = Meeting(config, place, displays)
    if tuned:
        tuning["strangers"] = meeting.tune(names, [Path(out) / f"{t}+{config.data.support}" for t in targets])
    rows, lines = [], {}
    for learner, seed in itertools.product(names, range(config.seed, config.seed + seeds)):
        own_results = [r for t in targets for r in results[t] if (r["learner"], r["seed"]) == (learner, seed)]
        if len(own_results) == len(targets):
            chosen = tuning.get("strangers", {}).get(learner, {}).get("chosen", {})
            met = meeting.measure(
                learner, seed, [Path(r["run"]) for r in own_results], chosen, line=seed == config.seed
            )
            rows.append(row_of(own_results, met["accuracy"]))
            if "line" in met:
                lines[learner] = met["line"]
    report = {
        "targets": list(targets),
        "support": config.data.support,
        "rows": rows,
        "summary": summarise(rows),
        "failed": failed,
        "tuning": tuning,
        "lines": lines,
        "evaluated_on": config.data.evaluate_on,
        "settings": to_dict(config),
        "data": {name: describe_dataset(pair.target) for name, pair in datasets.items()}
        | {config.data.support: describe_dataset(datasets[targets[0]].support)},
        **describe_surroundings(),
        "experiment": str(place),
    }
    write_text(place / "results.csv", as_csv(rows))
    write_json(place / "results.json", report)
    from metasum.report.study_pages import write_experiment_report

    write_experiment_report(place)
    return report


def _learners(learners: Sequence[str] | None) -> list[str]:
    """Those asked for, or all whose target networks are their own.

    Raises:
        UsageError: an unknown learner, or one that differs from another in its support's initialisation only.
    """
    alike = {name for name, entry in LEARNERS.items() if "support_init_seed" in entry.preset}
    if learners is None:
        return [name for name in LEARNERS if name not in alike]
    for name in learners:
        learner_named(name)
        if name in alike:
            raise UsageError(
                f"learner {name!r} gives the support another initialisation; its target networks are those of "
                "'independent', and so is their sum."
            )
    return list(learners)


class Meeting:
    """Adds the target networks of runs that never met, and remembers what it measured.

    Args:
        config: the experiment's settings.
        place: where measurements are kept, a file each.
        displays: makes a display for each measurement.
    """

    def __init__(self, config: TrainConfig, place: Path, displays: Callable[[], Display]) -> None:
        self._config, self._place, self._displays = config, place, displays
        self._fabric = make_fabric(config.optimisation)
        self._grounds: dict[tuple[str, ...], Ground] = {}

    def measure(
        self, learner: str, seed: int, folders: Sequence[Path], chosen: Mapping[str, Any], *, line: bool = False
    ) -> dict[str, Any]:
        """What `Ground.measure` says of the merged target networks, as "accuracy".

        Args:
            learner: a merging method merges by itself, all others' networks are added.
            seed: of the runs.
            folders: the runs.
            chosen: merging settings other than the experiment's.
            line: also measure along the line between the first two, as "line", where the learner trains its own.
        """
        runs = [open_run(folder) for folder in folders]
        check_addable(runs)
        found = self._remembered(f"{learner}-seed{seed}", learner, runs, chosen)
        if line and learner_named(learner).endpoints is None and "line" not in found:
            found["line"] = interpolate(runs[0].network, runs[1].network, self._ground(runs).tasks)
            write_json(self._place / f"{learner}-seed{seed}.json", found)
        return found

    def _remembered(
        self, name: str, learner: str, runs: Sequence[FinishedRun], chosen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What `<name>.json` says of these networks and settings; measured, and written there, where it is not so."""
        identity = {
            "networks": [checksum(parameters_of(run.network)) for run in runs],
            "merging": dataclasses.asdict(changed(self._config, **chosen).merging),
            "calibration_batches": self._config.sum.calibration_batches,
        }
        path = self._place / f"{name}.json"
        if path.is_file():
            before = read_json(path)
            if before.get("identity") == identity:
                return before
        self._displays().note(f"{name}: adding the networks of {', '.join(run.target for run in runs)} …")
        found = {"identity": identity, "accuracy": self._accuracy(learner, runs, chosen)}
        write_json(path, found)
        return found

    def tune(self, names: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
        """For each merging method with candidates, those that do best on strangers' validation images.

        The networks are the ones that `independent` trained without these images. Nothing is chosen where they are
        missing, or for settings that were given by hand.
        """
        places = [folder / "validation" / f"independent-seed{self._config.seed}" for folder in folders]
        if not all((place / "target.safetensors").is_file() for place in places):
            return {}
        runs = [open_run(place) for place in places]
        check_addable(runs)
        default, given = flat(TrainConfig()), flat(self._config)
        tuning = {}
        for name in (name for name in names if learner_named(name).endpoints is not None):
            grid = {key: values for key, values in learner_named(name).grid.items() if given[key] == default[key]}
            tried = []
            for values in itertools.product(*grid.values()) if grid else ():
                candidate = dict(zip(grid, values, strict=True))
                label = ",".join(f"{key}={value}" for key, value in candidate.items())
                accuracy = self._remembered(f"validation-{name}-{label}", name, runs, candidate)["accuracy"]
                score = [accuracy[run.target]["sum"] for run in runs]
                tried.append({"settings": candidate, "score": sum(score) / len(score)})
            if tried:
                tuning[name] = {"chosen": max(tried, key=lambda trial: trial["score"])["settings"], "tried": tried}
        return tuning

    def _accuracy(self, learner: str, runs: Sequence[FinishedRun], chosen: Mapping[str, Any]) -> dict[str, Any]:
        ground = self._ground(runs)
        for run in runs:
            run.network.to(self._fabric.device)
        endpoints = endpoints_of(runs, ground.tasks, batches=ground.calibration_batches)
        merging = changed(self._config, **chosen).merging
        operator = learner if learner_named(learner).endpoints is not None and learner in MERGERS else "sum"
        return ground.measure(merge(operator, endpoints, runs[0], merging)).accuracy

    def _ground(self, runs: Sequence[FinishedRun]) -> Ground:
        """The targets' datasets, loaded once for all learners and seeds."""
        evaluate_on = runs[0].config.data.evaluate_on
        names = [run.target for run in runs]
        key = (evaluate_on, *names)
        if key not in self._grounds:
            tasks = tasks_of(runs, names, data_root=None, device=self._fabric.device, download=False)
            batches = self._config.sum.calibration_batches
            self._grounds[key] = Ground(tasks, UnionTask(list(tasks.values())), batches)
        return self._grounds[key]
