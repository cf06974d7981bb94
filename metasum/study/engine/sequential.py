"""Engines run the cells of a study; the simplest runs one after the other, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

from metasum.study.engine.cell import Cell, Outcome, attempt
from metasum.study.engine.display import StudyDisplay
from metasum.study.engine.schedule import Schedule


class Engine(Protocol):
    """Runs cells whose needs are met, until all have ended."""

    apart: ClassVar[bool]
    """Whether cells run in other processes, which know nothing that was registered in this one."""

    def run(self, cells: Sequence[Cell], *, display: StudyDisplay) -> dict[str, Outcome]:
        """Runs a study.

        Args:
            cells: each comes after all that it needs, and otherwise in the order given here.
            display: is told what all of them do.

        Returns:
            By name, in the order given here, each cell's result or its `Failure`.

        Raises:
            ValueError: the cells are no plan; see `ordered`.
            Interrupted: SIGINT or SIGTERM came; the cells that were running have saved their state.
        """
        ...


@dataclass(frozen=True)
class Sequential:
    """One cell after the other, in this process and with its number of threads."""

    apart: ClassVar[bool] = False
    poll: float = 5.0
    """Seconds between two tries at a cell that another process is working on."""

    def run(self, cells: Sequence[Cell], *, display: StudyDisplay) -> dict[str, Outcome]:
        """See `Engine`."""
        schedule = Schedule(cells, poll=self.poll, display=display)
        display.begin(len(cells))
        try:
            while not schedule.over:
                cell = schedule.next()
                if cell is None:  # all that is left is being done by others
                    time.sleep(self.poll)
                    continue
                own = display.started(cell.name)
                schedule.settle(cell, attempt(cell.name, partial(cell.work, schedule.needed(cell), own), own))
        except KeyboardInterrupt:  # between two cells
            raise schedule.interrupted() from None
        finally:
            display.end()
        return schedule.outcomes()
