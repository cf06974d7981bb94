"""Rows of tables that are no merges: what they are is said in every table that has any, and in every file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from metasum.results.table import Column

LEGEND = {
    "task known": "has a network for each dataset, and has to know which one an image is of",
    "joint training": "is trained on all the data together, labels and all",
}


def anchor_columns(rows: Iterable[Any]) -> list[Column[Any]]:
    """What a row is that is no merge (attribute `no_merge`), where there is such a row; files have it always."""
    told = any(row.no_merge for row in rows)
    return [Column("no merge", lambda row: row.no_merge or "", name="no_merge", only=None if told else "csv")]


def anchor_notes(rows: Iterable[Any]) -> Sequence[str]:
    """Sentences below such a table."""
    found = dict.fromkeys(row.no_merge for row in rows if row.no_merge)
    told = [f"“{name}” {LEGEND[name]}" if name in LEGEND else f"“{name}”" for name in found]
    return [f"No merge, but what one could reach: {'; '.join(told)}."] if told else []
