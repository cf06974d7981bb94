"""What tells a sweep the time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The module `time` is one; a test has its own, which waits for nothing."""

    def monotonic(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float, /) -> None:
        """Waits."""
