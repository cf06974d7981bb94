"""A display whose listeners are in another process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from metasum.training.progress import Display

Told: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]
"""What a display was told: the method's name, its arguments and its keywords; all of plain values."""


class Relay(Display):
    """Hands on what it is told; `retell` does the rest.

    Args:
        tell: takes it to wherever it is heard.
        often: seconds between two steps that are told of; those with losses always are.
    """

    def __init__(self, tell: Callable[[Told], None], *, often: float) -> None:
        self._hand_on, self._often, self._next = tell, often, 0.0

    def begin(self, title: str, *, step: int, steps: int) -> None:
        self._tell("begin", title, step=step, steps=steps)

    def stepped(self, step: int, *, losses: Mapping[str, float] | None, images_per_second: float) -> None:
        now = time.monotonic()
        if losses is None and now < self._next:
            return
        self._next = now + self._often
        losses = None if losses is None else dict(losses)
        self._tell("stepped", step, losses=losses, images_per_second=images_per_second)

    def evaluated(self, step: int, evaluation: object) -> None:
        self._tell("evaluated", step, str(evaluation))

    def note(self, text: str) -> None:
        self._tell("note", text)

    def end(self) -> None:
        self._tell("end")

    def _tell(self, method: str, *values: Any, **named: Any) -> None:
        self._hand_on((method, values, named))


def retell(display: Display, told: Told) -> None:
    """Tells a display what a `Relay` was told elsewhere."""
    method, values, named = told
    getattr(display, method)(*values, **named)
