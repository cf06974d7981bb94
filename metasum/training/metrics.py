"""metrics.jsonl: a line of JSON for every record, the last of which a killed process may have torn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metasum.errors import CheckpointError

KINDS = {"step": "losses", "evaluation": "accuracy"}
"""What records there are, and under which name they hold their numbers."""


def read_metrics(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """The records in a file; none where there is no file.

    Args:
        path: of metrics.jsonl.
        torn: leave out a last line that has no end: its process was killed while writing it.

    Raises:
        CheckpointError: any other line is not a record.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    *whole, rest = lines  # where the last line has its end, nothing follows it
    records = []
    for number, line in enumerate([*whole, rest] if rest else whole, start=1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif not torn or number <= len(whole):
            raise CheckpointError(f"{path} is damaged in line {number}.")
    return records


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None where it holds none."""
    try:
        record = json.loads(line)
        good = isinstance(record["step"], int) and isinstance(record[KINDS[record["kind"]]], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if good else None
