"""Whose a trial is: what its process writes down in the storage that all share, and how others see it is gone."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasum.sweeps.storage import Clock
from metasum.sweeps.sweep_file import SweepFile

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial


@dataclass
class Claim:
    """A trial that this process has to run.

    Where another process took it for lost meanwhile, it is not ours any more: all methods but `lose` then raise
    Optuna's `UpdateFinishedTrialError`.
    """

    place: int
    trial: Trial
    values: dict[str, Any]
    """Of the command's options."""
    earlier: Sequence[str]
    """Folders that lost trials of this place worked in, the last one first."""
    file: SweepFile
    grace: float
    """Seconds without a sign of life after which others take it for lost."""
    clock: Clock

    def __post_init__(self) -> None:
        self.began = self._beaten_at = self.clock.monotonic()
        self._reports = 0

    def beat(self) -> None:
        """A sign of life, from time to time."""
        now = self.clock.monotonic()
        if now - self._beaten_at >= self.grace / 6:
            self._beaten_at = now
            self.trial.set_user_attr("beat", now)

    def report(self, value: float) -> bool:
        """Tells of the next evaluation; whether the trial is to be ended early by what is known now."""
        early_end, metric = self.file.early_end, self.file.metric
        if early_end is None or metric is None or not math.isfinite(value):
            return False
        self._reports += 1
        self.trial.report(value, self._reports)
        told = {
            trial.number: [metric.sign * trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
            for trial in self.trial.study.get_trials(deepcopy=False)
            if not is_lost(trial)
        }
        return early_end.stops(told[self.trial.number], list(told.values()))

    def lose(self) -> None:
        """Frees its place: this process is told to stop."""
        lose(self.trial.storage, self.trial._trial_id)

    def finish(self, state: str, value: float | None = None, **notes: Any) -> None:
        """Writes down how it ended.

        Args:
            state: "COMPLETE", "PRUNED" or "FAIL".
            value: of the metric; a sweep without one has 0.
            notes: what else is kept of it.
        """
        from optuna.trial import TrialState

        for key, note in notes.items():
            self.trial.set_user_attr(key, note)
        values = [0.0 if value is None else value] if state == "COMPLETE" else None
        self.trial.storage.set_trial_state_values(self.trial._trial_id, TrialState[state], values)


def lose(storage: BaseStorage, trial_id: int) -> None:
    """Frees a trial's place, unless it is finished: it is not run to its end."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    with contextlib.suppress(UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial_id, "lost", True)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial's process died under it, or it gave way to an earlier one: its place is free."""
    return trial.state.name == "FAIL" and bool(trial.user_attrs.get("lost"))


class Watch:
    """What one process knows of the others that share its sweep.

    Args:
        grace: seconds without a new sign of life after which a process on another machine is taken for dead.
        clock: tells how long ago a sign was.
    """

    def __init__(self, grace: float, clock: Clock) -> None:
        self.own = f"{_here()}:{os.getpid()}:{_started(os.getpid())}"
        self._grace, self._clock = grace, clock
        self._seen: dict[int, tuple[float, float]] = {}  # by trial: the last sign, and when it was first seen

    def is_dead(self, owner: str, trial: int, sign: float) -> bool:
        """Whether the process that runs a trial is gone: not on this machine any more, or silent for too long.

        Args:
            owner: what `own` was to that process.
            trial: its trial's number.
            sign: the last sign of life that it wrote there; a new one differs from those before.
        """
        if owner == self.own:
            return False
        now = self._clock.monotonic()
        if trial not in self._seen or self._seen[trial][0] != sign:
            self._seen[trial] = sign, now
        where, process, started = owner.rsplit(":", 2)
        gone = where == _here() and _started(int(process)) != started
        return gone or now - self._seen[trial][1] > self._grace


def _here() -> str:
    """Where process numbers mean what they mean to this process: a machine since it was started, or a container."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(found).replace(":", "")


def _started(process: int) -> str:
    """When a process began, so that its number can be told from a later one's; "" where it is gone.

    On Linux in the kernel's own ticks: a clock that is put right does not move them.
    """
    if platform.system() == "Linux":
        try:
            state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()  # see proc(5)
        except OSError:
            return ""
        return "" if state == "Z" else fields[18]  # dead, though nobody has asked for its exit code
    import psutil

    try:
        return str(int(psutil.Process(process).create_time()))
    except psutil.NoSuchProcess:
        return ""
