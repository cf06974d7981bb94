"""What one process does for a sweep: it claims trials, runs them, and writes down what became of them."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metasum.errors import Interrupted, MetaSumError, StorageError
from metasum.files import write_json, write_text
from metasum.machine import usable_cores
from metasum.ownership import is_occupied
from metasum.results.exports import as_csv
from metasum.results.surroundings import in_short
from metasum.results.sweep import SweepResult
from metasum.results.sweep_tables import trials_table
from metasum.sweeps.claim import Claim
from metasum.sweeps.process import TrialProcess, numbers_of
from metasum.sweeps.queue import TrialQueue
from metasum.sweeps.results import results_of
from metasum.sweeps.storage import Clock
from metasum.sweeps.sweep_file import SweepFile
from metasum.training.interruption import Interruption
from metasum.training.progress import Display

Starter = Callable[[Sequence[str], Path, int], TrialProcess]
"""Starts a trial: the command's arguments, the folder that it works in, and how many threads it may use."""
STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a trial that somebody else ended
POLL = 0.2  # seconds between two looks at one's own processes
LOOK = 2.0  # seconds between two looks for a free place, where others run the rest
PATIENCE = 5.0  # seconds for a lost trial's process to leave its folder
FIRST_GUESS = 2 * 2**30  # bytes that a trial is taken to need before one has been seen


@dataclass
class Course:
    """What one process does for a sweep."""

    queue: TrialQueue
    file: SweepFile
    folder: Path
    arguments: list[str]
    jobs: int
    display: Display
    start: Starter
    clock: Clock
    active: list[tuple[Claim, TrialProcess]] = field(default_factory=list)
    largest: int = 0
    """Bytes that the largest trial so far has held."""

    def __post_init__(self) -> None:
        cores = usable_cores()
        if self.jobs > cores:
            self.display.note(f"--jobs {self.jobs}: cores here: {cores}, so {cores} at a time.")
            self.jobs = cores
        self.threads = max(1, cores // self.jobs)

    def run(self, interruption: Interruption) -> None:
        """Runs trials until there is none left to run, here or elsewhere; raises Interrupted where it is to stop."""
        look_again, waiting = -math.inf, False
        while True:
            if interruption.requested:
                self.display.note("stopping: trials save their state")
                raise Interrupted(f"stopped; the sweep is in {self.folder}.")
            self.active = [pair for pair in self.active if not self._is_over(*pair)]
            while len(self.active) < self.jobs and self.clock.monotonic() >= look_again and self._fits():
                claim = self.queue.claim()
                if claim is not None:
                    self._begin(claim)
                    look_again, waiting = -math.inf, False
                    continue
                look_again = self.clock.monotonic() + LOOK
                others = self.queue.running() - len(self.active)
                if not self.active and not others and not self.queue.free():
                    return
                if not self.active and not waiting:
                    self.display.note(f"waiting for {others} trials of other processes")
                waiting = not self.active
            self.clock.sleep(POLL)

    def _fits(self) -> bool:
        """Whether there is memory for one more; the first always fits."""
        import psutil

        need = 1.2 * (self.largest or FIRST_GUESS)
        return not self.active or psutil.virtual_memory().available > need

    def _begin(self, claim: Claim) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        path = self.folder / "trials" / f"{claim.trial.number:04d}"
        for earlier in claim.earlier:
            if Path(earlier).is_dir() and not path.exists() and self._is_left(claim, Path(earlier)):
                with contextlib.suppress(OSError):
                    Path(earlier).rename(path)  # what the lost trial got done is gone on with
        with contextlib.suppress(UpdateFinishedTrialError):  # it was taken over already
            claim.trial.set_user_attr("folder", str(path.resolve()))
            arguments = [*self.file.arguments(claim.values), *self.arguments]
            self.active.append((claim, self.start(arguments, path, self.threads)))
            self._say(claim, " ".join(f"{name}={in_short(value)}" for name, value in claim.values.items()))

    def _is_left(self, claim: Claim, folder: Path) -> bool:
        """Whether nobody works in a lost trial's folder, after a moment in which its process may save its state."""
        until = self.clock.monotonic() + PATIENCE
        while any(is_occupied(run) for run in folder.glob("*/*")):
            if self.clock.monotonic() >= until:
                self._say(claim, f"somebody still works in {folder}, so it is begun anew")
                return False
            self.clock.sleep(POLL)
        return True

    def _is_over(self, claim: Claim, process: TrialProcess) -> bool:
        """Whether a trial has ended, after writing down how; looks after one that has not."""
        from optuna.exceptions import UpdateFinishedTrialError

        process.measure()
        self.largest = max(self.largest, process.peak_bytes)
        try:
            return self._settle(claim, process)
        except UpdateFinishedTrialError:
            process.stop()
            self._say(claim, "was taken over by another process")
            return True

    def _settle(self, claim: Claim, process: TrialProcess) -> bool:
        code = process.ended()
        metric = self.file.metric.name if self.file.metric and self.file.early_end else None
        bad = [claim.report(value) for value in (process.news(metric) if metric else ())]
        if any(bad) and process.ended() is None:
            process.stop()
            self._end(claim, "PRUNED", "ended early")
        elif code is None:
            claim.beat()
            return False
        elif code in STOPPED:
            claim.lose()
            self._say(claim, "was stopped from outside, and is begun again")
        elif code == 0:
            self._complete(claim, process)
        else:
            self._end(claim, "FAIL", f"failed: {process.complaint()}", error=process.complaint())
        return True

    def _complete(self, claim: Claim, process: TrialProcess) -> None:
        """Keeps a trial's numbers; one without a finite number of the metric's name has failed."""
        try:
            result = process.result()
        except (OSError, MetaSumError) as error:
            return self._end(claim, "FAIL", f"failed: {error}", error=str(error))
        numbers, name = numbers_of(result), self.file.metric.name if self.file.metric else None
        notes: dict[str, Any] = {"numbers": numbers, "run": result.run}
        if name is None:
            return self._end(claim, "COMPLETE", "finished", **notes)
        if math.isfinite(numbers.get(name, math.nan)):
            return self._end(claim, "COMPLETE", f"{name} {numbers[name]:.4g}", numbers[name], **notes)
        known = ", ".join(numbers) or "none"
        wrong = f"is {numbers[name]}" if name in numbers else f"is not in its result (there are: {known})"
        return self._end(claim, "FAIL", f"failed: its {name} {wrong}", error=f"its {name} {wrong}", **notes)

    def _end(self, claim: Claim, state: str, said: str, value: float | None = None, **notes: Any) -> None:
        seconds = round(self.clock.monotonic() - claim.began, 2)
        claim.finish(state, value, seconds=seconds, **notes)
        self._say(claim, f"{said} ({seconds:.0f} s)")
        self.write()

    def _say(self, claim: Claim, text: str) -> None:
        self.display.note(f"{claim.place + 1}/{self.queue.count}  {text}")

    def stop(self) -> None:
        """Ends what is still running, and frees its places."""
        for _, process in self.active:
            process.interrupt()
        for claim, process in self.active:
            process.wait()
            with contextlib.suppress(Exception):  # the storage may be gone: then others find out by themselves
                claim.lose()
        self.active = []

    def write(self, *, final: bool = False) -> SweepResult:
        """Writes results.json and results.csv; returns what results.json holds, at the end with importances."""
        results = results_of(self.file, self.queue, importances=final, folder=self.folder)
        try:
            write_json(self.folder / "results.json", results.to_json())
            write_text(self.folder / "results.csv", as_csv(trials_table(results)))
        except StorageError:  # between two trials the results are a convenience; at the end they are what was asked for
            if final:
                raise
        return results
