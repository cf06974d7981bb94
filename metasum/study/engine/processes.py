"""Several cells at once on this machine, each in a process of its own, so that one that dies takes no other with it."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import ClassVar

import psutil

from metasum.errors import reason
from metasum.machine import usable_cores
from metasum.study.engine.cell import Cell, Failure, Outcome
from metasum.study.engine.child import Job
from metasum.study.engine.display import StudyDisplay
from metasum.study.engine.process import CellProcess, context_with
from metasum.study.engine.schedule import Schedule
from metasum.training.interruption import Interruption

PRELOADED = ("torch", "torchvision", "lightning_fabric", "learn2learn", "metasum.study.engine.processes")
POLL = 0.2  # seconds between two looks whether to stop
FIRST_GUESS = 2 * 2**30  # bytes that a cell is taken to need before anything is known
RESERVE = 1.2  # a cell is taken to need so many times what the largest so far has held
KNOWN = 30.0  # seconds after which a cell is taken to hold about what it needs
OFTEN = 0.2  # seconds between two looks how much memory cells hold


@dataclass(frozen=True)
class Processes:
    """As many cells at a time as `jobs` says, fewer where cores or memory do not suffice.

    Cells give the same numbers as one after the other, bit for bit where the number of threads is the same.
    What was registered in this process is not known to the cells' processes: plug-ins are loaded there anew. As always
    with multiprocessing, a script that uses this guards its main part with `if __name__ == "__main__":`.
    """

    apart: ClassVar[bool] = True
    jobs: int
    plugins: tuple[Path, ...] = ()
    """Files that are run in each process first, as with --plugin; entry points are loaded anyway."""
    poll: float = 5.0
    """Seconds between two tries at a cell that another process is working on."""
    preload: tuple[str, ...] = PRELOADED
    """Modules that are imported once for all (not on Windows)."""

    def run(self, cells: Sequence[Cell], *, display: StudyDisplay) -> dict[str, Outcome]:
        """See `Engine`."""
        schedule = Schedule(cells, poll=self.poll, display=display)
        course = _Course(self, schedule, display)
        return schedule.carried_out(course.run, end=course.kill)


class _Course:
    """One run of a study."""

    def __init__(self, engine: Processes, schedule: Schedule, display: StudyDisplay) -> None:
        self._engine, self._schedule, self._display = engine, schedule, display
        self._jobs, self._threads = shares(engine.jobs)
        self._context = context_with(engine.preload)
        self._children: dict[CellProcess, Cell] = {}
        self._memory = Memory()
        self._stopped = False  # a cell was stopped by somebody else

    def run(self, interruption: Interruption) -> None:
        """Runs cells until all have ended; raises Interrupted where it is to stop, when all have saved their state."""
        if self._jobs < self._engine.jobs:
            self._display.note(f"--jobs {self._engine.jobs}: cores here: {self._jobs}, so {self._jobs} at a time.")
        while not self._schedule.over:
            if interruption.requested or self._stopped:
                self._display.note("stopping: what runs saves its state (Ctrl-C again does not wait for that)")
                for child in self._children:
                    child.ask_to_stop()
                while self._children:
                    self._hear()
                raise self._schedule.interrupted()
            while len(self._children) < self._jobs and self._memory.fits(list(self._children)):
                cell = self._schedule.next()
                if cell is None:
                    break
                self._start(cell)
            self._hear()

    def kill(self) -> None:
        """Ends what still runs, at once."""
        for child in self._children:
            child.kill()
        self._children.clear()

    def _start(self, cell: Cell) -> None:
        own = self._display.started(cell.name)
        try:
            pickled = pickle.dumps((cell.work, self._schedule.needed(cell)))
        except Exception as error:  # noqa: BLE001 (pickle raises what it likes)
            self._schedule.settle(cell, Failure(cell.name, f"its work cannot be sent to another process ({error})."))
            return
        job = Job(cell.name, pickled, self._engine.plugins, self._threads, dict(os.environ), Path.cwd())
        try:
            self._children[CellProcess(self._context, job, own)] = cell
        except (OSError, EOFError) as error:
            failure = Failure(cell.name, f"a process for it could not be started ({reason(error)}).")
            self._schedule.settle(cell, failure)

    def _hear(self) -> None:
        """What the children have to say, or nothing for a moment."""
        self._memory.measure(list(self._children))
        handles = [handle for child in self._children for handle in (child.connection, child.process.sentinel)]
        if handles:
            wait(handles, POLL)
        else:
            time.sleep(POLL)
        for child in list(self._children):
            if not child.hear():
                continue
            cell = self._children.pop(child)
            self._memory.end()
            if child.interrupted:
                self._stopped = True
                self._display.put_back(cell.name)
            else:
                self._schedule.settle(cell, child.outcome)


class Memory:
    """What cells have been seen to hold, and whether one more fits."""

    def __init__(self) -> None:
        self._largest, self._next = 0, 0.0
        self._known = False  # whether one has run for long enough, or to its end

    def measure(self, running: Sequence[CellProcess]) -> None:
        """Looks how many bytes each process holds; does nothing where the last look was just now."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + OFTEN
        for process in running:
            process.measure()
            self._largest = max(self._largest, process.bytes)
            self._known = self._known or time.monotonic() - process.started > KNOWN

    def end(self) -> None:
        """One has run to its end."""
        self._known = True

    def fits(self, running: Sequence[CellProcess]) -> bool:
        """Whether there is memory for one more, and for what the running ones may yet take; the first always fits."""
        if not running:
            return True
        need = RESERVE * (self._largest if self._known else max(self._largest, FIRST_GUESS))
        to_come = sum(max(0.0, need - process.bytes) for process in running)
        return bool(psutil.virtual_memory().available > need + to_come)


def shares(jobs: int) -> tuple[int, int]:
    """How many cells may run at a time, and how many threads each has.

    Never more cells than cores, nor more threads than OMP_NUM_THREADS says.
    """
    cores = usable_cores()
    jobs = min(jobs, cores)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    threads = cores // jobs
    return jobs, min(threads, int(limit)) if limit.isdecimal() and int(limit) else threads
