"""Step 3 of an experiment: adding the target networks of runs that never met, and remembering what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum.assembly.endpoints import FinishedRun, check_addable, endpoints_of, open_run, tasks_of
from metasum.assembly.parts import open_grid
from metasum.assembly.summing import merge
from metasum.baselines.registry import learner_named
from metasum.config import TrainConfig, changed
from metasum.files import read_json, write_json
from metasum.results.pictures import Line
from metasum.results.strangers import StrangersAccuracy
from metasum.results.surroundings import Settings, Tried, Tuned
from metasum.results.value import LEFT_OUT, Value
from metasum.study.sums import Ground
from metasum.tasks.union import UnionTask
from metasum.training.analysis import interpolate
from metasum.training.optimisation import make_fabric
from metasum.training.progress import Display
from metasum.weights.parameters import checksum, parameters_of


@dataclasses.dataclass(frozen=True)
class MeasuredSum(Value):
    """What a learner's networks do together."""

    identity: Settings
    """The networks and settings that it is about."""
    accuracy: StrangersAccuracy
    line: Line | None = dataclasses.field(default=None, metadata=LEFT_OUT)
    """Between the first two, where it was asked for."""


class Meeting:
    """Merges a learner's target networks, or adds them where it is no merging method, and measures the result.

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
    ) -> MeasuredSum:
        """What the merged target networks do.

        Args:
            learner: a merging method merges by itself, all others' networks are added.
            seed: of the runs.
            folders: the runs.
            chosen: merging settings other than the experiment's.
            line: also measure along the line between the first two, as `line`, where the learner trains its own.
        """
        runs = self._opened(folders)
        found = self._remembered(f"{learner}-seed{seed}", learner, runs, chosen)
        if line and learner_named(learner).endpoints is None and found.line is None:
            between = interpolate(runs[0].network, runs[1].network, self._ground(runs).tasks)
            found = dataclasses.replace(found, line=between)
            write_json(self._place / f"{learner}-seed{seed}.json", found.plain())
        return found

    def tune(self, learner: str, folders: Sequence[Path], by_hand: Collection[str]) -> dict[str, Tuned]:
        """Under the name of a merging method with candidates, what does best on strangers' validation images.

        The networks are those that `independent` trained without these images. {} where they are missing, or where
        nothing is open.
        """
        candidates = open_grid(learner, self._config, by_hand)
        places = [folder / "validation" / f"independent-seed{self._config.seed}" for folder in folders]
        if learner_named(learner).endpoints is None or not candidates:
            return {}
        if not all((place / "result.json").is_file() for place in places):
            return {}
        runs = self._opened(places)
        tried = []
        for candidate in candidates:
            label = ",".join(f"{key}={value}" for key, value in candidate.items())
            accuracy = self._remembered(f"validation-{learner}-{label}", learner, runs, candidate).accuracy
            score = [accuracy.datasets[run.target].sum for run in runs]
            tried.append(Tried(candidate, sum(score) / len(score)))
        return {learner: Tuned.best_of(tried)}

    def _opened(self, folders: Sequence[Path]) -> list[FinishedRun]:
        runs = [open_run(folder) for folder in folders]
        check_addable(runs)
        for run in runs:
            run.network.to(self._fabric.device)
        return runs

    def _remembered(
        self, name: str, learner: str, runs: Sequence[FinishedRun], chosen: Mapping[str, Any]
    ) -> MeasuredSum:
        """What `<name>.json` says of these networks and settings; measured, and written there, where it is not so."""
        merges = learner_named(learner).endpoints is not None
        merging = changed(self._config, **chosen).merging
        operator = learner_named(learner).merger if merges else self._config.sum.operator
        identity = {
            "networks": [checksum(parameters_of(run.network)) for run in runs],
            "operator": operator,
            "merging": dataclasses.asdict(merging),
            "calibration_batches": self._config.sum.calibration_batches,
            "evaluate_on": runs[0].config.data.evaluate_on,
        }
        path = self._place / f"{name}.json"
        if path.is_file():
            before = read_json(path)
            if before.get("identity") == identity:
                return MeasuredSum.parse(before, where=str(path))
        self._displays().note(f"{name}: adding the networks of {', '.join(run.target for run in runs)} …")
        ground = self._ground(runs)
        endpoints = endpoints_of(runs, ground.tasks, batches=ground.calibration_batches)
        accuracy = ground.measure(merge(str(operator), endpoints, runs[0], merging)).accuracy
        found = MeasuredSum(identity, StrangersAccuracy.parse(accuracy, where="the sum"))
        write_json(path, found.plain())
        return found

    def _ground(self, runs: Sequence[FinishedRun]) -> Ground:
        """The targets' datasets, loaded once for all learners and seeds."""
        names = [run.target for run in runs]
        key = (runs[0].config.data.evaluate_on, *names)
        if key not in self._grounds:
            root = Path(self._config.data.data_root)
            tasks = tasks_of(runs, names, data_root=root, device=self._fabric.device, download=False)
            batches = self._config.sum.calibration_batches
            self._grounds[key] = Ground(tasks, UnionTask(list(tasks.values())), batches)
        return self._grounds[key]
