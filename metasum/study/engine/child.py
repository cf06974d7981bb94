"""What runs in a cell's own process: its work, heard and stopped over a pipe."""

from __future__ import annotations

import _thread
import contextlib
import gc
import io
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from metasum.errors import Interrupted, reason
from metasum.plugins import load_entry_points, run_plugin
from metasum.study.engine.cell import Failure, attempt, terminable
from metasum.study.engine.relay import Relay
from metasum.training.interruption import SIGNALS
from metasum.training.progress import Display

OFTEN = 0.1  # seconds between two steps that are told of


@dataclass(frozen=True)
class Job:
    """What a process is told to do."""

    name: str
    pickled: bytes
    """The work and what it needs; unpickled when plug-ins have been loaded."""
    plugins: tuple[Path, ...]
    threads: int
    environment: Mapping[str, str]
    folder: Path
    """Where relative paths begin; on another machine, which may not have it, they begin where they do there."""


def run_job(connection: Connection, job: Job) -> None:
    """Does the job in this process; display events and, at last, what it came to are sent as (kind, value).

    Kinds are "begun", "display" (a method's name, arguments, keywords), "ended" (an outcome, or Occupied), and
    "interrupted".
    Anything received, and the other end's end, means: stop.
    """
    gc.freeze()  # what was imported before the fork stays: looking at it would copy its memory, and takes 0.3 s
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal is the parent's to hand on
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see `context_with`
    with contextlib.suppress(OSError):
        os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment, OMP_NUM_THREADS=str(job.threads))
    said = _Said(connection)
    heard = socket.socketpair()  # lives as long as this process: signals are written to it
    try:
        with terminable():
            said.say("begun", None)
            _listen(connection, *heard)
            import torch

            from metasum.training.memory import keep_freed_memory

            torch.set_num_threads(job.threads)
            keep_freed_memory()
            sys.stdout = sys.stderr = _Notes(said.display)  # the terminal is the parent's
            outcome = attempt(job.name, lambda: _work(job, said.display), said.display)
            _hear_no_more()
    except (Interrupted, KeyboardInterrupt):
        _hear_no_more()
        said.say("interrupted", None)
        return
    try:
        said.say("ended", outcome)
    except Exception as error:  # noqa: BLE001 (pickle raises what it likes)
        said.say("ended", Failure(job.name, f"its result cannot be sent to another process ({reason(error)})."))


def _work(job: Job, display: Display) -> Any:
    load_entry_points()
    for file in job.plugins:
        run_plugin(file)
    work, needed = pickle.loads(job.pickled)
    return work(needed, display)


def _hear_no_more() -> None:
    """What is left to say is not to be interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _listen(connection: Connection, heard: socket.socket, hears: socket.socket) -> None:
    """Has this process stop, once, when it is told to or its parent is gone.

    A signal that has come already (schedulers send them to every process of a job) is not repeated: while a run saves
    its state, a second one would end it at once.

    Args:
        connection: anything received from it, and its end, means: stop.
        heard: one end of a pair of sockets; what has come is read from it.
        hears: the other; every signal that comes is written to it.
    """
    heard.setblocking(False)
    hears.setblocking(False)
    signal.set_wakeup_fd(hears.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        with contextlib.suppress(OSError, EOFError):
            connection.recv()
        came = b""
        with contextlib.suppress(BlockingIOError):
            came = heard.recv(4096)
        if set(SIGNALS) & set(came):
            return
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        else:
            _thread.interrupt_main(signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()


class _Said:
    """What goes to the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self.display = Relay(lambda told: self.say("display", told), often=OFTEN)
        """What the cell's display in the parent is to hear."""

    def say(self, kind: str, value: Any) -> None:
        """Sends; where nobody listens any more, nothing happens."""
        with self._lock, contextlib.suppress(OSError):  # several threads may print
            self._connection.send((kind, value))


class _Notes(io.TextIOBase):
    """What is written here becomes notes, a line each."""

    def __init__(self, display: Display) -> None:
        self._display, self._line = display, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.strip():
                self._display.note(line)
        return len(text)
