"""stdout as the place of a command's result."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

_kept: ContextVar[TextIO | None] = ContextVar("kept", default=None)


@contextmanager
def kept_for_results() -> Iterator[None]:
    """For the block, what is printed goes to stderr; `results_stream` is what stdout was."""
    token = _kept.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.reset(token)


def results_stream() -> TextIO:
    """Where a result is to be written."""
    return _kept.get() or sys.stdout
