"""How many cells fit into memory at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

from metasum.study.engine.process import CellProcess

FIRST_GUESS = 2 * 2**30  # bytes that a cell is taken to need before anything is known
RESERVE = 1.2  # a cell is taken to need so many times what the largest so far has held
KNOWN = 30.0  # seconds after which a cell is taken to hold about what it needs
OFTEN = 0.2  # seconds between two looks


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
