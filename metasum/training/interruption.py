"""Ctrl-C, a scheduler's SIGTERM, a terminal's SIGHUP: heard between steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def heeded(number: int) -> bool:
    """Whether the signal is for this process: under `nohup` a SIGHUP is not."""
    return not (signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN)


class Interruption:
    """While the block runs, the first SIGINT, SIGTERM or SIGHUP only sets `requested`; a second one acts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._hear) for number in SIGNALS if heeded(number)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
