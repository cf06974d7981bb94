"""One run of a study on a Dask scheduler: cells are handed to it, and what becomes of them is heard."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metasum.errors import MetaSumError, UsageError, reason
from metasum.study.engine.cell import Cell, Failure, Occupied, Outcome
from metasum.study.engine.display import StudyDisplay
from metasum.study.engine.on_worker import Lost, Order, Terms, Unsuited, run_order, unsuited
from metasum.study.engine.relay import retell
from metasum.study.engine.schedule import Schedule
from metasum.training.interruption import Interruption
from metasum.training.progress import Display

if TYPE_CHECKING:
    from distributed import Client, Future

POLL = 0.2  # seconds between two looks whether to stop
LOOK = 1.0  # seconds between two looks at the cluster's size
PATIENCE = 60.0  # seconds that cells have to save their state
TRIES = 3  # of a cell whose process was killed or hung


@dataclass
class _Try:
    """One try at a cell, as far as it is known here."""

    cell: Cell
    future: Future
    display: Display | None = None
    """Told about its progress, once it has begun."""


class Course:
    """One run of a study."""

    def __init__(self, client: Client, scheduler: str, terms: Terms, schedule: Schedule, display: StudyDisplay) -> None:
        self._client, self._scheduler, self._terms = client, scheduler, terms
        self._schedule, self._display = schedule, display
        self._tries: dict[int, _Try] = {}
        self._at_work = set[int]()  # tries that workers have begun and not left
        self._again: list[Cell] = []  # cells whose try was lost
        self._lost = Counter[str]()
        self._number, self._places, self._gpus, self._look = 0, 1, False, 0.0
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run(self, interruption: Interruption) -> None:
        """Runs cells until all have ended; raises Interrupted where it is to stop, when all have saved their state."""
        self._client.subscribe_topic(self._terms.ground.text, lambda event: self._news.put(("event", event[1])))
        found: Any = self._client.run(unsuited, self._terms.ground, on_error="return")
        self._check(found.values())
        while not self._schedule.over:
            if interruption.requested:
                self._display.note("stopping: what runs saves its state (Ctrl-C again does not wait for that)")
                self.cancel()
                end = time.monotonic() + PATIENCE
                while self._at_work and time.monotonic() < end:
                    self._hear()
                raise self._schedule.interrupted()
            if self._client.status != "running":
                raise MetaSumError(
                    f"the scheduler {self._scheduler} is gone; what was under way goes on from its last saved "
                    "state when the same command is given to another one."
                )
            self._count()
            while len(self._tries) < self._places and (cell := self._next()) is not None:
                self._submit(cell)
            self._hear()

    def cancel(self) -> None:
        """Has workers stop what they do, and forget what they were to do."""
        with contextlib.suppress(Exception):  # where nobody answers any more
            self._client.cancel([one.future for one in self._tries.values()])
        self._tries.clear()

    def _check(self, answers: Iterable[Any]) -> None:
        for answer in answers:
            if isinstance(answer, BaseException):
                raise MetaSumError(f"a Dask worker cannot run metasum: {reason(answer)}.")
            if answer is not None:
                raise UsageError(answer)

    def _count(self) -> None:
        """Looks, now and then, how many cells the cluster has places for; one while there is no worker."""
        if time.monotonic() < self._look:
            return
        workers = self._client.scheduler_info()["workers"].values()
        if not workers and self._look == 0:
            self._display.note(f"the scheduler {self._scheduler} has no worker yet; waiting for one")
        gpus = sum(int(worker["resources"].get("GPU", 0)) for worker in workers)
        self._gpus = self._terms.gpu and gpus > 0
        self._places = gpus if self._gpus else max(1, sum(worker["nthreads"] for worker in workers))
        self._look = time.monotonic() + LOOK

    def _next(self) -> Cell | None:
        return self._again.pop() if self._again else self._schedule.next()

    def _submit(self, cell: Cell) -> None:
        try:
            pickled = pickle.dumps((cell.work, self._schedule.needed(cell)))
        except Exception as error:  # noqa: BLE001 (pickle raises what it likes)
            self._settle(cell, Failure(cell.name, f"its work cannot be sent to another process ({error})."))
            return
        number = self._number
        self._number += 1
        order = Order(cell.name, number, pickled, os.environ.get("METASUM_DEBUG"))
        key = ("metasum", cell.name, self._terms.ground.text, number)  # its first part is what dashboards sum up
        resources = {"GPU": 1} if self._gpus else None
        future = self._client.submit(run_order, order, self._terms, key=key, pure=False, resources=resources)
        self._tries[number] = _Try(cell, future)
        future.add_done_callback(lambda _: self._news.put(("done", number)))

    def _hear(self) -> None:
        """What has come since the last call, or nothing for a moment."""
        with contextlib.suppress(queue.Empty):
            kind, value = self._news.get(timeout=POLL)
            while True:
                if kind == "event":
                    self._told(value["try"], value["kind"], value["value"])
                elif value in self._tries:
                    self._done(value)
                kind, value = self._news.get_nowait()

    def _told(self, number: int, kind: str, value: Any) -> None:
        """A worker says something about a try."""
        if kind == "gone":
            self._at_work.discard(number)
        elif kind == "begun":
            self._at_work.add(number)
        one = self._tries.get(number)
        if one is None:
            return
        if kind == "begun":
            if one.display is not None:  # Dask has handed it on
                self._display.put_back(one.cell.name)
                self._display.note(f"{one.cell.name}: its worker is gone; it goes on, on {value}")
            one.display = self._display.started(one.cell.name)
        elif kind == "display" and one.display is not None:
            retell(one.display, pickle.loads(value))

    def _done(self, number: int) -> None:
        """A try has ended."""
        one = self._tries[number]
        try:
            outcome = one.future.result(timeout=POLL * 10)
        except TimeoutError:  # its worker died with the result: Dask has the cell done again, which takes what is there
            one.future.add_done_callback(lambda _: self._news.put(("done", number)))
            return
        except Exception as error:  # noqa: BLE001 (a worker's, or that of reading what it sent)
            if one.future.status == "error":
                outcome = Failure(one.cell.name, _in_words(error))
            elif self._client.status == "running":
                outcome = Lost("its task was cancelled by somebody else.")
            else:
                return  # the scheduler is gone
        del self._tries[number]
        self._settle(one.cell, outcome)

    def _settle(self, cell: Cell, outcome: Outcome | Occupied | Lost | Unsuited) -> None:
        if isinstance(outcome, Unsuited):
            raise UsageError(outcome.why)
        if isinstance(outcome, Lost):
            self._lost[cell.name] += not outcome.stopped
            if self._lost[cell.name] < TRIES:
                self._display.put_back(cell.name)
                self._display.note(f"{cell.name}: {outcome.why} It is tried again.")
                self._again.append(cell)
                return
            outcome = Failure(cell.name, f"{outcome.why} It was tried {TRIES} times.")
        self._schedule.settle(cell, outcome)


def _in_words(error: Exception) -> str:
    """What became of a cell whose task failed, though its work's own errors are results."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        times = error.allowed_failures + 1
        return f"{times} workers died under it, perhaps because memory ran out."
    return f"Dask could not run it ({reason(error)})."
