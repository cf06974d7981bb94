"""One try at a cell's work, in whatever process: what it comes to, as a value."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from metasum.errors import Interrupted, MetaSumError, OccupiedError, reason
from metasum.study.engine.cell import Failure, Outcome
from metasum.training.progress import Display


@dataclass(frozen=True)
class Occupied:
    """Another process does this work just now."""

    who: str
    """In words: who works where."""


def attempt(name: str, work: Callable[[], Any], display: Display) -> Outcome | Occupied:
    """What the work comes to: its result, a Failure, or Occupied.

    METASUM_DEBUG=1 shows where it failed.

    Args:
        name: of the cell.
        work: its work, with its arguments.
        display: of the cell.

    Raises:
        Interrupted: it was asked to stop, by SIGINT or SIGTERM, and has saved its state where it keeps one.
    """
    try:
        with terminable():
            return work()
    except KeyboardInterrupt:
        raise Interrupted(f"stopped in {name}.") from None
    except Interrupted:
        raise
    except OccupiedError as error:
        return Occupied(f"{error.owner} works in {error.folder}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever one cell dies of, the others go on)
        if os.environ.get("METASUM_DEBUG") == "1":
            display.note(traceback.format_exc())
        return Failure(
            name, str(error) if isinstance(error, MetaSumError) else f"{type(error).__name__}: {reason(error)}"
        )


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """While the block runs, SIGTERM raises KeyboardInterrupt as SIGINT does, so that it ends in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
