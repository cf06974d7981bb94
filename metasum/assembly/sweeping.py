"""A W&B sweep file, run here: the sweep's course."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metasum.errors import DivergenceError, Interrupted, MetaSumError, StorageError, UsageError
from metasum.files import check_folder_name, make_folder, write_json, write_text
from metasum.machine import usable_cores
from metasum.ownership import is_occupied
from metasum.results.spreadsheet import as_csv
from metasum.results.surroundings import in_short
from metasum.results.sweep import SweepResult
from metasum.results.sweep_tables import trials_table
from metasum.study.sweep.process import TrialProcess, numbers_of
from metasum.study.sweep.queue import Claim, TrialQueue
from metasum.study.sweep.results import results_of
from metasum.study.sweep.storage import open_storage
from metasum.study.sweep.sweep_file import SweepFile, read_sweep_file
from metasum.training.interruption import Interruption
from metasum.training.progress import Display, SilentDisplay

STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a trial that somebody else ended
POLL = 0.2  # seconds between two looks at one's own processes
LOOK = 2.0  # seconds between two looks for a free place, where others run the rest
PATIENCE = 5.0  # seconds for a lost trial's process to leave its folder
FIRST_GUESS = 2 * 2**30  # bytes that a trial is taken to need before one has been seen


def sweep(
    file: Path | str,
    *,
    count: int | None = None,
    jobs: int = 1,
    storage: str | None = None,
    name: str | None = None,
    seed: int = 0,
    grace: float = 120.0,
    arguments: Sequence[str] = (),
    out: Path | str = "runs",
    display: Display | None = None,
) -> SweepResult:
    """Runs a W&B sweep file on this machine, without an account; calling it again goes on where it was stopped.

    Any number of processes, on any number of machines that share the storage, may run one sweep: every trial is run
    to its end once. A trial that fails is written down, and the others go on.

    Args:
        file: the sweep file.
        count: trials in all, whoever runs them [default: all of a grid, or the file's run_cap].
        jobs: trials at a time, in processes of their own; fewer where cores or memory do not suffice.
        storage: see `open_storage`.
        name: of the sweep [default: the file's name].
        seed: of random search and bayes.
        grace: seconds after which a silent process on another machine is taken for dead.
        arguments: further ones of the file's command, the same for all trials.
        out: the sweep's folder is `<out>/sweeps/<name>`.
        display: is told about progress.

    Returns:
        What results.json holds: trials, best, importances, `sweep` (the folder), …

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; Interrupted where the user stopped it.
    """
    for package in ("optuna", "psutil"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"a sweep without an account needs the package {package}: pip install 'metasum[sweep]'.")
    asked = read_sweep_file(Path(file))
    count = count or asked.grid_size or asked.cap
    if count is None:
        raise UsageError(f"method {asked.method} of {Path(file).name} has no end: --count N says how many trials.")
    if asked.grid_size is not None:
        count = min(count, asked.grid_size)
    if jobs < 1 or grace <= 0:
        raise UsageError(f"--jobs must be at least 1 and --grace positive, not {jobs} and {grace:g}.")
    name = name or asked.name
    check_folder_name("--name", name)
    folder = Path(out) / "sweeps" / name
    with open_storage(storage, folder) as shared, Interruption() as interruption:
        make_folder(folder)
        queue = TrialQueue(shared, asked, name=name, count=count, seed=seed, arguments=arguments, grace=grace)
        course = _Course(asked, queue, folder, list(arguments), jobs, display or SilentDisplay())
        try:
            course.run(interruption)
        finally:
            course.stop()
            results = course.write()
    return results


@dataclass
class _Course:
    """What one process does for a sweep."""

    file: SweepFile
    queue: TrialQueue
    folder: Path
    arguments: list[str]
    jobs: int
    display: Display
    active: list[tuple[Claim, TrialProcess]] = field(default_factory=list)
    largest: int = 0
    """Bytes that the largest trial so far has held."""

    def __post_init__(self) -> None:
        cores = usable_cores()
        if self.jobs > cores:
            self.display.note(f"--jobs {self.jobs}: there are {cores} cores, so {cores} at a time.")
            self.jobs = cores
        self.threads = max(1, cores // self.jobs)

    def run(self, interruption: Interruption) -> None:
        """Runs trials until there is none left to run, here or elsewhere; raises Interrupted where it is to stop."""
        looked, waiting = -LOOK, False
        while True:
            if interruption.requested:
                self.display.note("stopping: trials save their state")
                raise Interrupted(f"stopped; the sweep is in {self.folder}.")
            self.active = [pair for pair in self.active if not self._over(*pair)]
            while len(self.active) < self.jobs and time.monotonic() - looked >= LOOK and self._fits():
                claim = self.queue.claim()
                if claim is None:
                    looked = time.monotonic()
                    others = self.queue.running() - len(self.active)
                    if not self.active and not others and not self.queue.free():
                        return
                    if not self.active and not waiting:
                        self.display.note(f"waiting for {others} trials of other processes")
                    waiting = not self.active
                    break
                self._start(claim)
                looked, waiting = -LOOK, False
            time.sleep(POLL)

    def _fits(self) -> bool:
        """Whether there is memory for one more; the first always fits."""
        import psutil

        need = 1.2 * (self.largest or FIRST_GUESS)
        return not self.active or psutil.virtual_memory().available > need

    def _start(self, claim: Claim) -> None:
        path = self.folder / "trials" / f"{claim.trial.number:04d}"
        for earlier in claim.earlier:
            if Path(earlier).is_dir() and not path.exists() and self._is_left(claim, Path(earlier)):
                with contextlib.suppress(OSError):
                    Path(earlier).rename(path)  # what the lost trial got done is gone on with
        if not self.queue.work_in(claim, str(path.resolve())):
            return
        arguments = [*self.file.arguments(claim.values), *self.arguments]
        self.active.append((claim, TrialProcess(arguments, path, threads=self.threads)))
        self._say(claim, " ".join(f"{name}={in_short(value)}" for name, value in claim.values.items()))

    def _is_left(self, claim: Claim, folder: Path) -> bool:
        """Whether nobody works in a lost trial's folder, after a moment in which its process may save its state."""
        until = time.monotonic() + PATIENCE
        while any(is_occupied(run) for run in folder.glob("*/*")):
            if time.monotonic() >= until:
                self._say(claim, f"somebody still works in {folder}, so it is begun anew")
                return False
            time.sleep(POLL)
        return True

    def _over(self, claim: Claim, process: TrialProcess) -> bool:
        """Whether a trial has ended, after writing down how; looks after one that has not."""
        process.measure()
        self.largest = max(self.largest, process.peak_bytes)
        code = process.ended()
        pruned = self._report(claim, process)
        if pruned is None or (code is None and not pruned and not self.queue.beat(claim)):
            process.stop()
            self._say(claim, "was taken over by another process")
            return True
        if code is None and not pruned:
            return False
        if pruned:
            process.stop()
        elif code in STOPPED:
            self.queue.give_up(claim)
            self._say(claim, "was stopped from outside, and is begun again")
            return True
        self._end(claim, process, "PRUNED" if pruned else "COMPLETE" if code == 0 else "FAIL")
        return True

    def _report(self, claim: Claim, process: TrialProcess) -> bool | None:
        """Tells Optuna of new evaluations; whether the trial is to be ended early, None where it is no longer ours."""
        if self.file.metric is None or self.file.halving is None:
            return False
        pruned = False
        for value in process.news(self.file.metric.name):
            bad = self.queue.is_bad(claim, value)
            if bad is None:
                return None
            pruned = pruned or bad
        return pruned and process.ended() is None

    def _end(self, claim: Claim, process: TrialProcess, state: str) -> None:
        notes: dict[str, Any] = {"seconds": round(time.monotonic() - process.started, 2)}
        value, said = None, "ended early" if state == "PRUNED" else ""
        if state == "COMPLETE":
            try:
                result = process.result()
                notes |= {"numbers": numbers_of(result), "run": result.run}
                if self.file.metric is not None:
                    value = notes["numbers"][self.file.metric.name]
                    if not math.isfinite(value):
                        raise DivergenceError(f"its {self.file.metric.name} is {value}")
                    said = f"{self.file.metric.name} {value:.4g}"
            except (OSError, MetaSumError) as error:
                state, notes["error"] = "FAIL", str(error)
            except KeyError as error:
                state = "FAIL"
                known = ", ".join(notes.get("numbers", {})) or "none"
                notes["error"] = f"there is no number {error} in its result (there are: {known})"
        elif state == "FAIL":
            notes["error"] = process.complaint()
        ours = self.queue.finish(claim, state, value, **notes)
        said = f"failed: {notes['error']}" if state == "FAIL" else said or "finished"
        said = said if ours else "was taken over by another process meanwhile"
        self._say(claim, f"{said} ({notes['seconds']:.0f} s)")
        if ours:
            self.write(page=False)

    def _say(self, claim: Claim, text: str) -> None:
        self.display.note(f"{claim.place + 1}/{self.queue.count}  {text}")

    def stop(self) -> None:
        """Ends what is still running, and frees its places."""
        for _, process in self.active:
            process.interrupt()
        for claim, process in self.active:
            process.wait()
            with contextlib.suppress(Exception):  # the storage may be gone: then others find out by themselves
                self.queue.give_up(claim)
        self.active = []

    def write(self, *, page: bool = True) -> SweepResult:
        """results.json, results.csv and, at the end, report.html; returns what results.json holds."""
        results = results_of(self.file, self.queue, importances=page, folder=self.folder)
        try:
            self._write(results, page=page)
        except StorageError:  # between two trials the results are a convenience; at the end they are what was asked for
            if page:
                raise
        return results

    def _write(self, results: SweepResult, *, page: bool) -> None:
        write_json(self.folder / "results.json", results.to_json())
        write_text(self.folder / "results.csv", as_csv(trials_table(results)))
        if page:
            from metasum.report.sweep_page import write_sweep_report

            write_sweep_report(self.folder)
