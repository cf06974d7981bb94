"""A study's cells: what is to be done, what each needs of the others, and what one try at it comes to."""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeAlias

from metasum.errors import Interrupted, MetaSumError, OccupiedError, reason
from metasum.training.interruption import SIGNALS, heeded
from metasum.training.progress import Display


class Work(Protocol):
    """What a cell does: a value that can be pickled, for instance a frozen dataclass with this one method."""

    def __call__(self, needed: Mapping[str, Any], display: Display) -> Any:
        """Does it.

        Args:
            needed: by name, the results of the cells in `needs`, and the outcomes of those in `after`.
            display: is told about progress.

        Returns:
            A result that can be pickled.

        Raises:
            OccupiedError: another process does it just now; it is tried again later.
            Interrupted: it was asked to stop (SIGINT or SIGTERM), and has saved its state.
            Exception: it failed; only the cells that need it fail with it.
        """
        ...


@dataclass(frozen=True)
class Cell:
    """One piece of a study."""

    name: str
    """Unique in the study; it is also what is shown."""
    work: Work
    needs: tuple[str, ...] = ()
    """Names of the cells whose results it takes; it fails where one of them fails."""
    after: tuple[str, ...] = ()
    """Names of the cells whose outcomes it takes, a result or a `Failure`; it begins when all of them have ended."""


@dataclass(frozen=True)
class Failure:
    """What became of a cell that has no result."""

    cell: str
    error: str
    """One sentence."""
    because: str | None = None
    """The name of the failed cell that it needed; None where it failed by itself."""


Outcome: TypeAlias = Any
"""What became of a cell: its result, or a `Failure`."""


def ordered(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in an order in which each comes after all that it needs, and otherwise as they were given.

    Raises:
        ValueError: two cells have one name, a cell needs one that does not exist, or cells need each other in a circle.
    """
    places = {cell.name: place for place, cell in enumerate(cells)}
    if len(places) < len(cells):
        double = next(cell.name for place, cell in enumerate(cells) if places[cell.name] != place)
        raise ValueError(f"two cells are named {double!r}")
    for cell in cells:
        missing = next((name for name in (*cell.needs, *cell.after) if name not in places), None)
        if missing is not None:
            raise ValueError(f"cell {cell.name!r} needs {missing!r}, which does not exist")
    graph = TopologicalSorter({cell.name: (*cell.needs, *cell.after) for cell in cells})
    graph.prepare()  # raises CycleError, a ValueError, with the names
    found, free = list[Cell](), list[int]()
    while graph.is_active():
        for name in graph.get_ready():
            heapq.heappush(free, places[name])
        found.append(cells[heapq.heappop(free)])
        graph.done(found[-1].name)
    return found


@dataclass(frozen=True)
class Occupied:
    """Another process does this work just now."""

    who: str
    """In words: who works where."""


def attempt(name: str, work: Callable[[], Any], display: Display) -> Outcome | Occupied:
    """What the work comes to: its result, a Failure, or Occupied.

    METASUM_DEBUG=1 shows where it failed.

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
    """While the block runs, SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, so that it ends in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = [number for number in SIGNALS if number != signal.SIGINT and heeded(number)]
    before = {number: signal.signal(number, _interrupt) for number in others}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
