"""Which heads a sum was measured with, in tables."""

from __future__ import annotations

from typing import Any

from metasum.config.words import Heads
from metasum.results.table import Column


def heads_told(heads: Heads) -> str:
    """What stands behind the name of a sum, or of what it was measured on; nothing where all weights are summed."""
    return ", own heads" if heads == "own" else ""


def heads_column(heads: Heads) -> Column[Any]:
    """The same for programs, in every row."""
    return Column("heads", lambda row: heads)
