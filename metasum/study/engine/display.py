"""What a study says while it works: all that runs at once in a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol, TextIO

from metasum.plain_text import plain
from metasum.study.engine.cell import Failure, Outcome
from metasum.training.progress import Display, LineDisplay, SilentDisplay, losses_text


class StudyDisplay(Protocol):
    """Hears what becomes of a study's cells."""

    def begin(self, total: int) -> None:
        """A study of so many cells starts."""
        ...

    def started(self, cell: str) -> Display:
        """A cell begins, perhaps not for the first time; returns what is told about its progress."""
        ...

    def put_back(self, cell: str) -> None:
        """A cell that had begun is waiting again."""
        ...

    def ended(self, cell: str, outcome: Outcome) -> None:
        """A cell, begun or not, has a result or a `Failure`."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def end(self) -> None:
        """The study is over, well or not."""
        ...


class SilentStudy:
    """Says nothing."""

    def begin(self, total: int) -> None: ...
    def started(self, cell: str) -> Display:
        return SilentDisplay()

    def put_back(self, cell: str) -> None: ...
    def ended(self, cell: str, outcome: Outcome) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


class Count:
    """How many cells there are, run, have ended, and failed; in words as `str`."""

    def __init__(self) -> None:
        self.total, self.ended, self.failed, self.running = 0, 0, 0, set[str]()

    def end(self, cell: str, outcome: Outcome) -> None:
        """Counts a cell that has ended."""
        self.running.discard(cell)
        self.ended += 1
        self.failed += isinstance(outcome, Failure)

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.ended}/{self.total} cells, {len(self.running)} running{failed}"


class StudyLines:
    """Lines that each begin with the name of their cell, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._count = stream, Count()

    def begin(self, total: int) -> None:
        self._count.total = total

    def started(self, cell: str) -> Display:
        self._count.running.add(cell)
        return LineDisplay(self._stream, prefix=f"{cell}: ")

    def put_back(self, cell: str) -> None:
        self._count.running.discard(cell)

    def ended(self, cell: str, outcome: Outcome) -> None:
        self._count.end(cell, outcome)
        how = f"failed: {outcome.error}" if isinstance(outcome, Failure) else "done"
        self.note(f"{cell}: {how}  ({self._count})")

    def note(self, text: str) -> None:
        print(plain(text), file=self._stream, flush=True)

    def end(self) -> None: ...


class LiveStudy:
    """A line for each running cell (bar, steps, losses, images per second), and a count of all below them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        name = TextColumn("{task.description}", style="bold", markup=False)
        one_line = Column(no_wrap=True, overflow="ellipsis")
        losses = TextColumn("{task.fields[losses]}", markup=False, table_column=one_line)
        speed = TextColumn("{task.fields[speed]}", markup=False, justify="right")
        console = Console(file=stream)
        self.cells = Progress(name, BarColumn(bar_width=20), MofNCompleteColumn(), losses, speed, console=console)
        self._below = Progress(TextColumn("{task.description}", markup=False), console=console)
        self._live = Live(Group(self.cells, self._below), console=console, refresh_per_second=4)
        self._count, self._lines = Count(), dict[str, _CellLine]()
        self._count_line = self._below.add_task("")

    def begin(self, total: int) -> None:
        self._count.total = total
        self._recount()
        self._live.start()

    def started(self, cell: str) -> Display:
        self._count.running.add(cell)
        self._lines[cell] = _CellLine(self, cell)
        self._recount()
        return self._lines[cell]

    def put_back(self, cell: str) -> None:
        self._count.running.discard(cell)
        self._remove(cell)

    def ended(self, cell: str, outcome: Outcome) -> None:
        self._count.end(cell, outcome)
        self._remove(cell)
        if isinstance(outcome, Failure):
            self.note(f"{cell} failed: {outcome.error}")

    def note(self, text: str) -> None:
        self.cells.console.print(plain(text), markup=False, highlight=False)

    def end(self) -> None:
        self._live.stop()

    def _remove(self, cell: str) -> None:
        if cell in self._lines:  # one that never began has none
            self.cells.remove_task(self._lines.pop(cell).line)
        self._recount()

    def _recount(self) -> None:
        self._below.update(self._count_line, description=str(self._count))


class _CellLine(Display):
    """The line of one cell, as its work's display."""

    def __init__(self, study: LiveStudy, cell: str) -> None:
        self._study, self._cell = study, cell
        self.line = study.cells.add_task(cell, total=None, losses="", speed="")

    def begin(self, title: str, *, step: int, steps: int) -> None:
        self._study.cells.update(self.line, total=steps, completed=step, losses="", speed="")

    def stepped(self, step: int, *, losses: Mapping[str, float] | None, images_per_second: float) -> None:
        if losses is not None:
            self._study.cells.update(self.line, losses=losses_text(losses))
        self._study.cells.update(self.line, completed=step, speed=f"{images_per_second:.0f} images/s")

    def note(self, text: str) -> None:
        self._study.note(f"{self._cell}: {text}")


def study_display_for(*, quiet: bool, stream: TextIO | None = None) -> StudyDisplay:
    """The display that suits `stream` [default: stderr]."""
    stream = stream or sys.stderr
    if quiet or stream is None:  # as with 2>&-
        return SilentStudy()
    return LiveStudy(stream) if stream.isatty() else StudyLines(stream)
