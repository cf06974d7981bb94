"""Which cell is next: the bookkeeping that every engine shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from metasum.errors import Interrupted
from metasum.study.engine.cell import Cell, Failure, Occupied, Outcome, ordered
from metasum.study.engine.display import StudyDisplay
from metasum.training.interruption import Interruption


class Schedule:
    """What has ended, what may begin, and what somebody else is doing.

    Args:
        cells: of the study.
        poll: seconds between two tries at a cell that another process is working on.
        display: is told how cells end.

    Raises:
        ValueError: the cells are no plan; see `ordered`.
    """

    def __init__(self, cells: Sequence[Cell], *, poll: float, display: StudyDisplay) -> None:
        self._open = {cell.name: cell for cell in ordered(cells)}  # neither begun nor ended
        self._given, self._poll, self._display = [cell.name for cell in cells], poll, display
        self._ended: dict[str, Outcome] = {}
        self._again: dict[str, float] = {}  # open cells that others work on, and when each may be tried again
        self._met = set[str]()  # cells that were found to be so, ever

    def carried_out(self, course: Callable[[Interruption], None], *, end: Callable[[], object]) -> dict[str, Outcome]:
        """How all cells ended.

        Args:
            course: begins cells and settles them until the schedule is over; it is to stop where that is requested.
            end: called in the end, however it comes: nothing is to go on behind it.
        """
        self._display.begin(len(self._given))
        try:
            with Interruption() as interruption:
                course(interruption)
        except KeyboardInterrupt:  # the second one
            raise self.interrupted() from None
        finally:
            end()
            self._display.end()
        return self.outcomes()

    @property
    def over(self) -> bool:
        """Whether all cells have ended."""
        return len(self._ended) == len(self._given)

    def next(self) -> Cell | None:
        """The first cell that may begin now, which is taken to have begun; None where there is none.

        One that another process works on comes after all others.
        """
        now = time.monotonic()
        first = next((cell for cell in self._open.values() if cell.name not in self._again and self._ready(cell)), None)
        first = first or next((self._open[name] for name, due in self._again.items() if due <= now), None)
        if first is not None:
            del self._open[first.name]
            self._again.pop(first.name, None)
        return first

    def _ready(self, cell: Cell) -> bool:
        return all(name in self._ended for name in (*cell.needs, *cell.after))

    def needed(self, cell: Cell) -> dict[str, Any]:
        """What its work is given."""
        return {name: self._ended[name] for name in (*cell.needs, *cell.after)}

    def settle(self, cell: Cell, outcome: Outcome | Occupied) -> None:
        """Notes how a try at a cell ended, and tells of it and of the failures that follow from it."""
        if isinstance(outcome, Occupied):
            self._put_back(cell, outcome)
            return
        news = {cell.name: outcome}
        if isinstance(outcome, Failure):
            for other in list(self._open.values()):  # in order: what needs it comes before what needs that
                lost = next((name for name in other.needs if isinstance(news.get(name), Failure)), None)
                if lost is not None:
                    news[other.name] = Failure(other.name, _told(news[lost]), lost)
                    del self._open[other.name]
        self._ended |= news
        for name, ended in news.items():
            self._display.ended(name, ended)

    def _put_back(self, cell: Cell, occupied: Occupied) -> None:
        new = cell.name not in self._met
        self._met.add(cell.name)
        self._again[cell.name] = 0.0 if new else time.monotonic() + self._poll
        self._open[cell.name] = cell
        self._display.put_back(cell.name)
        if new:
            self._display.note(f"{cell.name}: {occupied.who}; waiting for it")

    def outcomes(self) -> dict[str, Outcome]:
        """Of all cells, in the order in which they were given."""
        return {name: self._ended[name] for name in self._given}

    def interrupted(self) -> Interrupted:
        """The error for a study that was stopped here."""
        return Interrupted(
            f"stopped with {len(self._ended)} of {len(self._given)} cells ended; what was under way goes on from its "
            "last saved state."
        )


def _told(lost: Failure) -> str:
    """What is said of a cell that needs a failed one: the one that failed by itself, and why."""
    return lost.error if lost.because is not None else f"it needs {lost.cell}, which failed: {lost.error}"
