"""Step 3 of an experiment as cells: the target networks of runs that never met are added, and measured."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum.baselines.registry import learner_named
from metasum.config import options_of
from metasum.errors import CheckpointError
from metasum.files import make_folder, read_json, reading, write_json
from metasum.merging import METHODS
from metasum.results.pictures import Line
from metasum.results.strangers import Opinions, StrangersAccuracy
from metasum.results.surroundings import Failed, Settings
from metasum.results.value import LEFT_OUT, Value, to_plain
from metasum.run.request import Request
from metasum.strangers.datasets import tasks_of
from metasum.strangers.measuring import kept_statistics, measure
from metasum.strangers.opinions import opinions_of
from metasum.strangers.runs import FinishedRun, check_addable, endpoints_of, merge_runs, open_run
from metasum.study.choosing import Choose, chosen, in_words
from metasum.study.engine.cell import Cell, Failure
from metasum.study.kept import kept
from metasum.study.request import Study
from metasum.study.training import Outcomes, choice_name, run_name
from metasum.tasks.task import ImageTask
from metasum.training.analysis import interpolate
from metasum.training.optimisation import make_fabric
from metasum.training.progress import Display
from metasum.weights.parameters import checksum, parameters_of


@dataclasses.dataclass(frozen=True)
class Measurement(Value):
    """What is kept in a file of a sum of strangers."""

    identity: Settings
    """The networks and settings that it is about."""
    accuracy: StrangersAccuracy
    opinions: Opinions | None = None
    """None with own heads, which say nothing of foreign images."""
    line: Line | None = dataclasses.field(default=None, metadata=LEFT_OUT)
    """Between the first two networks, where it was asked for."""

    def is_of(self, targets: Sequence[str]) -> bool:
        """Whether all of it is of these datasets, and of no other."""
        named: list[Iterable[str]] = [self.accuracy.datasets]
        if self.opinions is not None:
            named.append(self.opinions.ensemble)
            pairs = sorted((opinion.network, opinion.dataset) for opinion in self.opinions.each)
            if pairs != sorted(itertools.product(targets, targets)):
                return False
        if self.line is not None:
            named.append(self.line.accuracy)
        return all(set(names) == set(targets) for names in named)


@dataclasses.dataclass(frozen=True)
class StrangersSum:
    """Adds or merges the target networks of finished runs, and measures that; what its file tells is not repeated."""

    file: Path
    """Where the measurement is kept."""
    runs: tuple[Path, ...]
    """Their folders."""
    operator: str
    """The method's name."""
    settings: Settings
    """Of the method, as far as they were given."""
    request: Request
    """Where data lies, on which device to work, and how many batches recalibration reads."""
    choice: str | None = None
    """The cell that chooses settings of the method."""
    line: bool = False
    """Measure along the line between the first two networks, too."""

    def __call__(self, needed: Mapping[str, Any], display: Display) -> Measurement:
        heads = self.request["heads"]
        runs = [open_run(folder, heads=heads) for folder in self.runs]
        check_addable(runs)
        settings = {**self.settings, **chosen(needed, self.choice)}
        method = METHODS.named(self.operator)(seed=runs[0].plan.seed, **settings)
        batches = self.request["calibration_batches"]
        identity = {
            "networks": [checksum(parameters_of(run.network)) for run in runs],
            "operator": self.operator,
            "merging": to_plain(dataclasses.asdict(method.config)),
            "calibration_batches": batches,
            "evaluate_on": runs[0].plan.data.evaluate_on,
            **({"heads": heads} if heads == "own" else {}),  # earlier versions summed all, and did not say so
        }
        found = _kept_in(self.file, identity, [run.target for run in runs])
        if found is not None and (found.line is not None or not self.line):
            return found
        display.note(f"adding the networks of {', '.join(run.target for run in runs)} …")
        tasks = self._tasks(runs)
        if found is None:
            endpoints = endpoints_of(runs, tasks, batches=batches)
            networks = merge_runs(runs, endpoints, method, tasks)
            own = kept_statistics(runs, method, networks[runs[0].target])
            accuracy = measure(networks, tasks, batches, kept=own).accuracy
            same = ("opinions", *identity["networks"])  # methods share networks
            opinions = None if heads == "own" else kept(same, lambda: opinions_of(runs, tasks))
            found = Measurement(identity, accuracy, opinions)
        if self.line:
            own_heads = {run.target: run.network for run in runs} if heads == "own" else None
            line = interpolate(runs[0].network, runs[1].network, tasks, heads=own_heads)
            found = dataclasses.replace(found, line=line)
        make_folder(self.file.parent)
        write_json(self.file, found.plain())
        return found

    def _tasks(self, runs: list[FinishedRun]) -> dict[str, ImageTask]:
        """The targets' datasets, loaded once for all learners and seeds; the runs are moved to where these are."""
        device = make_fabric(self.request["device"], self.request["precision"]).device
        for run in runs:
            run.network.to(device)
        names, root, first = tuple(run.target for run in runs), Path(self.request["data_root"]), runs[0].plan.data
        return kept(
            (names, root, device, first.evaluate_on, first.in_channels, runs[0].plan.network.image_size),
            lambda: tasks_of(runs, names, data_root=root, device=device, download=False),
        )


def _kept_in(file: Path, identity: Settings, targets: Sequence[str]) -> Measurement | None:
    """The measurement in a file, where it is about these networks and settings.

    Raises:
        CheckpointError: it is damaged: no measurement, or one of other datasets than the networks'.
    """
    if not file.is_file():
        return None
    with reading(file):
        found = _about(file, read_json(file), identity)
    if found is not None and not found.is_of(targets):
        raise CheckpointError(f"{file} is damaged: it is not of the datasets {', '.join(targets)}.")
    return found


def _about(file: Path, before: dict[str, Any], identity: Settings) -> Measurement | None:
    if "opinions" not in before:  # of a version that did not measure them
        return None
    about = before.get("identity")
    if not isinstance(about, dict) or not isinstance(about.get("merging"), dict):
        return None
    own = {name: about["merging"].get(name) for name in identity["merging"]}  # earlier versions kept all methods'
    if {**about, "merging": own} != identity:
        return None
    return Measurement.parse({**before, "identity": identity}, where=str(file))


def strangers_cells(study: Study) -> list[Cell]:
    """Learner by learner: trials on validation images and the choice where settings are open, then seed by seed."""
    return [cell for learner in study.learners for cell in (*_trials(study, learner), *_measurements(study, learner))]


def measurement_name(study: Study, learner: str, seed: int) -> str:
    """The name of the cell that measures the sum of a learner's target networks."""
    return study.short(study.place / f"{learner}-seed{seed}")


def _trials(study: Study, learner: str) -> list[Cell]:
    """Of a merging method: on the networks that were trained without the validation images."""
    endpoints, candidates = learner_named(learner).endpoints, study.candidates(learner)
    if endpoints is None or not candidates:
        return []
    seed, tried = study.seeds[0], dict[str, Settings]()
    runs = tuple(study.source_path(target, endpoints, seed, validation=True) for target in study.targets)
    needs = tuple(map(study.short, runs))
    cells = []
    for candidate in candidates:
        path = study.place / f"validation-{learner}-{in_words(candidate)}"
        tried[study.short(path)] = candidate
        cells.append(Cell(study.short(path), _sum(study, learner, path, runs, candidate), needs))
    return [*cells, Cell(choice_name(study, study.place, learner), Choose(tried), after=tuple(tried))]


def _measurements(study: Study, learner: str) -> list[Cell]:
    choice = choice_name(study, study.place, learner) if _trials(study, learner) else None
    cells = []
    for seed in study.seeds:
        path = study.place / f"{learner}-seed{seed}"
        runs = tuple(study.run_path(target, learner, seed) for target in study.targets)
        work = dataclasses.replace(
            _sum(study, learner, path, runs), choice=choice, line=study.looked_into(learner, seed)
        )
        needs = tuple(run_name(study, target, learner, seed) for target in study.targets)
        cells.append(Cell(study.short(path), work, needs, () if choice is None else (choice,)))
    return cells


def _sum(
    study: Study, learner: str, path: Path, runs: tuple[Path, ...], candidate: Settings | None = None
) -> StrangersSum:
    operator, given = operator_of(study, learner), {**study.request.given, **(candidate or {})}
    own = {leaf.name: given[leaf.name] for leaf in options_of(METHODS.named(operator).Config) if leaf.name in given}
    return StrangersSum(path.with_name(f"{path.name}.json"), runs, operator, own, study.request)


def operator_of(study: Study, learner: str) -> str:
    """What adds a learner's target networks: its own method, or what was asked for, or what its pairs are added by."""
    facts = learner_named(learner)
    if facts.method is not None:
        return facts.method
    default = next((leaf.default for leaf in options_of(facts.Config) if leaf.name == "operator"), "sum")
    return str({"operator": default, **study.request.given, **facts.preset}["operator"])


def strangers_failures(study: Study, outcomes: Outcomes) -> list[Failed]:
    """The sums that failed by themselves; where a run did, that is told of the run."""
    found = []
    for learner in study.learners:
        for seed in study.seeds:
            outcome = outcomes[measurement_name(study, learner, seed)]
            if isinstance(outcome, Failure) and outcome.because is None:
                found.append(Failed(learner, seed, outcome.error, f"{learner}-seed{seed}"))
    return found
