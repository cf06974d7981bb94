"""What a Dask worker does with a cell: it gives it a process of its own, as --jobs does, and watches over it.

So a cell that dies takes no worker with it, one that is to stop can be told so, and one whose worker dies hears of it,
saves its state and lets go of its folder.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from metasum.study.engine.cell import Failure, Occupied, Outcome
from metasum.study.engine.child import Job
from metasum.study.engine.process import CellProcess, context_with
from metasum.study.engine.processes import shares
from metasum.study.engine.relay import Relay, Told

POLL = 0.5  # seconds between two looks whether to stop
OFTEN = 1.0  # seconds between two steps that are told of: all of them pass through one scheduler
_one_at_a_time = threading.Lock()  # a worker's threads start and end processes, which multiprocessing does not foresee


@dataclass(frozen=True)
class Ground:
    """What all machines have to have in common."""

    token: Path
    """A file in the folder of runs, absolute."""
    text: str
    """What it holds; also the name of the study among those of a scheduler."""
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Terms:
    """On which all cells of a study are run."""

    ground: Ground
    plugins: tuple[Path, ...]
    """Files that are run in each cell's process first."""
    folder: Path
    """Where relative paths begin."""
    silence: float
    """Seconds after which a process that neither works nor says anything is taken to hang."""
    preload: tuple[str, ...]
    """Modules that are imported once for all cells of a worker."""
    gpu: bool
    """Whether a cell may use one."""


@dataclass(frozen=True)
class Order:
    """What a worker is told to do: one try at a cell."""

    cell: str
    number: int
    """Of the try, among all tries at cells of the study."""
    pickled: bytes
    """The work and what it needs; unpickled in the cell's process, when plug-ins have been loaded."""
    debug: str | None
    """METASUM_DEBUG, as the study has it; everything else is the worker's own environment."""


@dataclass(frozen=True)
class Lost:
    """A try came to nothing, and another may do better."""

    why: str
    stopped: bool = False
    """Whether it was asked to stop, and has saved its state."""


@dataclass(frozen=True)
class Unsuited:
    """The machine cannot run any cell."""

    why: str


def versions() -> dict[str, str]:
    """Of what decides about numbers, and about what can be sent; without a package's own suffix, such as +cpu."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python} | {name: version(name).split("+")[0] for name in ("metasum", "torch", "distributed")}


def unsuited(ground: Ground) -> str | None:
    """What keeps this machine from running cells, in a sentence; None if nothing."""
    here = f"the Dask worker on {socket.gethostname()}"
    for name, own in versions().items():
        if own != ground.versions[name]:
            return f"{here} has {name} {own}, and this machine {ground.versions[name]}; install the same on both."
    with contextlib.suppress(OSError):
        if ground.token.read_text() == ground.text:
            return None
    return (
        f"{here} does not see the folder {ground.token.parent}: a study on Dask needs one that all machines share; "
        "name it with --out."
    )


def run_order(order: Order, terms: Terms) -> Outcome | Occupied | Lost | Unsuited:
    """A Dask task: one try at a cell, in a process of its own; what it says is logged as events of the study's topic.

    Events are {"try": its number, "kind": …, "value": …}, of kinds "begun" (the machine's name), "display" (pickled,
    what a `Relay` was told), and "gone".
    """
    from distributed import get_worker

    why = unsuited(terms.ground)
    if why is not None:
        return Unsuited(why)
    worker = get_worker()
    key = worker.get_current_task()

    def log(kind: str, value: Any) -> None:
        worker.log_event(terms.ground.text, {"try": order.number, "kind": kind, "value": value})

    def unwanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or worker.status.name not in ("running", "paused")

    log("begun", socket.gethostname())
    try:
        return _watched(_started(order, terms, worker.state.nthreads, log), terms.silence, unwanted)
    finally:
        log("gone", None)


def _started(order: Order, terms: Terms, cells: int, log: Callable[[str, Any], None]) -> CellProcess:
    """The cell's process, on a worker that has place for so many."""
    environment = dict(os.environ)
    environment.pop("METASUM_DEBUG", None)
    if order.debug is not None:
        environment["METASUM_DEBUG"] = order.debug

    def tell(told: Told) -> None:
        log("display", pickle.dumps(told))

    _, threads = shares(cells)
    job = Job(order.cell, order.pickled, terms.plugins, threads, environment, terms.folder)
    with _one_at_a_time:
        # Dask's nannies make their workers daemons, which may start no process; this one's see to their own end
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        return CellProcess(context_with(terms.preload), job, Relay(tell, often=OFTEN))


def _watched(child: CellProcess, silence: float, unwanted: Callable[[], bool]) -> Outcome | Occupied | Lost:
    """What the process comes to; it is asked to stop where its task is cancelled or its worker closes."""
    asked, life = False, _Life(child)
    while True:
        ready = wait([child.connection, child.process.sentinel], POLL)
        with _one_at_a_time:
            if child.hear():
                break
        if not asked and unwanted():
            asked = True
            child.ask_to_stop()
        if life.silent(heard=bool(ready)) > silence:
            with _one_at_a_time:
                child.kill()
            child.connection.close()
            return Lost(f"its process did nothing for {silence:g} seconds.")
    if child.interrupted:
        return Lost("its process was stopped.", stopped=True)
    if child.process.exitcode == -signal.SIGKILL and isinstance(child.outcome, Failure):
        return Lost(child.outcome.error)
    return child.outcome


class _Life:
    """When a process last said something or worked."""

    def __init__(self, child: CellProcess) -> None:
        self._child, self._seconds, self._last = child, 0.0, time.monotonic()

    def silent(self, *, heard: bool) -> float:
        """Seconds since its last sign of life: a word, or a second of a processor, which threads that wait do not take.

        Args:
            heard: whether it has just said something.
        """
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._child.process.pid).cpu_times()
            used = times.user + times.system + times.children_user + times.children_system
            if heard or used > self._seconds + 1:
                self._seconds, self._last = used, time.monotonic()
        return time.monotonic() - self._last
