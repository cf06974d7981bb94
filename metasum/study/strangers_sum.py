"""The sum of a learner's target networks, which never met: made and measured once, and kept in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasum.files import make_folder, read_json, write_json
from metasum.merging import METHODS
from metasum.results.pictures import Line
from metasum.results.strangers import StrangersAccuracy
from metasum.results.surroundings import Settings
from metasum.results.value import LEFT_OUT, Value, to_plain
from metasum.run.request import Request
from metasum.strangers.measuring import DatasetsAndUnion, tasks_of
from metasum.strangers.merging import endpoints_of, merge_runs
from metasum.strangers.runs import FinishedRun, check_addable, open_run
from metasum.study.kept import kept
from metasum.study.training import chosen
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
    line: Line | None = dataclasses.field(default=None, metadata=LEFT_OUT)
    """Between the first two networks, where it was asked for."""


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
        runs = [open_run(folder) for folder in self.runs]
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
        }
        found = _kept_in(self.file, identity)
        if found is not None and (found.line is not None or not self.line):
            return found
        display.note(f"adding the networks of {', '.join(run.target for run in runs)} …")
        tasks = self._tasks(runs)
        if found is None:
            endpoints = endpoints_of(runs, tasks, batches=batches)
            network = merge_runs(runs, endpoints, method)
            found = Measurement(identity, DatasetsAndUnion(tasks, batches).measure(network).accuracy)
        if self.line:
            line = interpolate(runs[0].network, runs[1].network, tasks)
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
            (names, root, device, first.evaluate_on, first.in_channels),
            lambda: tasks_of(runs, names, data_root=root, device=device, download=False),
        )


def _kept_in(file: Path, identity: Settings) -> Measurement | None:
    """The measurement in a file, where it is about these networks and settings."""
    if not file.is_file():
        return None
    before = read_json(file)
    about = before.get("identity")
    if not isinstance(about, dict) or not isinstance(about.get("merging"), dict):
        return None
    own = {name: about["merging"].get(name) for name in identity["merging"]}  # earlier versions kept all methods'
    if {**about, "merging": own} != identity:
        return None
    return Measurement.parse({**before, "identity": identity}, where=str(file))
