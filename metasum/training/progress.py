"""What a run says while it works: a live display in a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from metasum.plain_text import plain


class Display:
    """Hears of a run's steps, losses and evaluations; whoever derives from it says what it wants to say of them."""

    def begin(self, title: str, *, step: int, steps: int) -> None:
        """A run starts, or continues at `step`."""

    def stepped(self, step: int, *, losses: Mapping[str, float] | None, images_per_second: float) -> None:
        """Step `step` is done; `losses` (nats per image) are given where they were just read."""

    def evaluated(self, step: int, evaluation: object) -> None:
        """Accuracies at `step`, in words as `str`."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def end(self) -> None:
        """The run is over, well or not."""


class SilentDisplay(Display):
    """Says nothing."""


class LineDisplay(Display):
    """A line for every tenth of the way and every evaluation, for logs and pipes.

    Args:
        stream: where the lines go.
        prefix: with which each of them begins.
    """

    def __init__(self, stream: TextIO, *, prefix: str = "") -> None:
        self._stream, self._prefix, self._steps, self._next = stream, prefix, 0, 0

    def begin(self, title: str, *, step: int, steps: int) -> None:
        self._steps, self._next = steps, step
        self.note(title)

    def stepped(self, step: int, *, losses: Mapping[str, float] | None, images_per_second: float) -> None:
        if losses is None or (step < self._next and step < self._steps):
            return
        self._next = step + max(1, self._steps // 10)
        self.note(f"step {step}/{self._steps}  {losses_text(losses)}  {images_per_second:.0f} images/s")

    def evaluated(self, step: int, evaluation: object) -> None:
        self.note(f"step {step}/{self._steps}  {evaluation}")

    def note(self, text: str) -> None:
        for line in text.splitlines():
            print(plain(f"{self._prefix}{line}"), file=self._stream, flush=True)


class RichDisplay(Display):
    """A progress bar with losses, accuracy before and after, images per second and time left."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            console=Console(file=stream),
        )
        self._losses = Progress(
            TextColumn("  loss      {task.description}", markup=False), console=self._progress.console
        )
        self._accuracy = Progress(
            TextColumn("  accuracy  {task.description}", markup=False), console=self._progress.console
        )
        parts = Group(self._progress, self._losses, self._accuracy)
        self._live = Live(parts, console=self._progress.console, refresh_per_second=8)

    def begin(self, title: str, *, step: int, steps: int) -> None:
        self._bar = self._progress.add_task(plain(title), total=steps, completed=step, speed=0.0)
        self._loss_line = self._losses.add_task("…")
        self._accuracy_line = self._accuracy.add_task("first evaluation to come")
        self._live.start()

    def stepped(self, step: int, *, losses: Mapping[str, float] | None, images_per_second: float) -> None:
        self._progress.update(self._bar, completed=step, speed=images_per_second)
        if losses is not None:
            self._losses.update(self._loss_line, description=losses_text(losses))

    def evaluated(self, step: int, evaluation: object) -> None:
        self._accuracy.update(self._accuracy_line, description=f"{evaluation}  (step {step})")

    def note(self, text: str) -> None:
        self._progress.console.print(plain(text), markup=False, highlight=False)

    def end(self) -> None:
        self._live.stop()


def display_for(*, quiet: bool, stream: TextIO | None = None) -> Display:
    """The display that suits `stream` [default: stderr]."""
    stream = stream or sys.stderr
    if quiet or stream is None:  # as with 2>&-
        return SilentDisplay()
    return RichDisplay(stream) if stream.isatty() else LineDisplay(stream)


def losses_text(losses: Mapping[str, float]) -> str:
    """Loss terms (nats per image) for a line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
