"""A cell's own process, as its parent sees it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from metasum.errors import reason
from metasum.study.engine.cell import Failure
from metasum.study.engine.child import Job, run_job
from metasum.study.engine.relay import retell
from metasum.training.interruption import SIGNALS
from metasum.training.progress import Display

PATIENCE = 10.0  # seconds that a process has to end after its last word
STOPPED = tuple(-number for number in SIGNALS)  # exit codes of one that was stopped before it could say so


def context_with(preload: Sequence[str]) -> BaseContext:
    """Starts processes: forks of one that has imported the modules `preload` (and does nothing else), else anew.

    That one must not hear SIGINT and SIGTERM, which reach it from the terminal and from schedulers: its forks would
    lose their exit codes. So it is started with both blocked, and they unblock them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    resource_tracker.ensure_running()  # would unblock them
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context


class CellProcess:
    """The process of one try at a cell, started in the context of `context_with`; `display` is the cell's."""

    def __init__(self, context: BaseContext, job: Job, display: Display) -> None:
        self.name, self.started, self.bytes = job.name, time.monotonic(), 0
        self.outcome: Any = None
        """What it came to, once `hear` says that it has ended."""
        self.interrupted = False
        """Whether it ended because it was asked to stop, by whomever."""
        self._begun, self._ended, self._display = False, False, display
        self.connection, theirs = multiprocessing.Pipe()
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]  # typeshed has it in subclasses
            target=run_job, args=(theirs, job), name=f"metasum {job.name}"
        )
        try:
            self.process.start()
        finally:
            theirs.close()

    def measure(self) -> None:
        """Looks how many bytes of memory it holds."""
        with contextlib.suppress(psutil.Error):
            self.bytes = max(self.bytes, psutil.Process(self.process.pid).memory_info().rss)

    def hear(self) -> bool:
        """Passes on what it has said since the last call; returns whether it has ended."""
        alive = self.process.is_alive()  # looked at first: what it says may be its last word
        try:
            while not self._ended and self.connection.poll():
                self._take(*self.connection.recv())
        except (OSError, EOFError):
            alive = False
        except Exception as error:  # noqa: BLE001 (unpickling raises what it likes)
            self._end(Failure(self.name, f"its result cannot be read ({reason(error)})."))
        if alive and not self._ended:
            return False
        self.process.join(PATIENCE)
        if not self._ended:
            self.interrupted = self.process.exitcode in STOPPED
            self._end(Failure(self.name, self._died()))
            self.kill()  # what it had started may live
        elif self.process.is_alive():
            self.kill()
        self.connection.close()
        return True

    def ask_to_stop(self) -> None:
        """Has it save its state and end."""
        with contextlib.suppress(OSError):
            self.connection.send("stop")

    def kill(self) -> None:
        """Ends it, and all that it started, at once."""
        if hasattr(os, "killpg") and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    def _take(self, kind: str, value: Any) -> None:
        if kind == "display":
            retell(self._display, value)
        elif kind == "begun":
            self._begun = True
        else:
            self.interrupted = kind == "interrupted"
            self._end(value)

    def _end(self, outcome: Any) -> None:
        self.outcome, self._ended = outcome, True

    def _died(self) -> str:
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            return "its process was killed, perhaps because memory ran out."
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}."
        if not self._begun:
            return (
                f"its process could not begin (exit code {code}); a script that runs studies in processes needs "
                "`if __name__ == '__main__':` around its main part."
            )
        return f"its process ended without a result (exit code {code})."
