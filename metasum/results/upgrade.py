"""From result files of older formats to today's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from metasum.errors import CheckpointError

FORMAT = 2
"""Of result.json and results.json; files of format 1 do not say their format."""

Plain: TypeAlias = Mapping[str, Any]
"""A JSON object."""

KEYS_OF_FORMAT_1 = {
    "few_shot": "few-shot",
    "sweep": "sweep",
    "experiment": "experiment",
    "comparison": "comparison",
    "sum": "sum",
    "initial": "meta",
    "new_after": "few-shot-then",
    "parameters": "few-shot-run",
    "after_by_operator": "run",
    "steps": "few-shot-pretraining",
}
"""Format 1 did not say what a file holds: the first of these keys that it has tells."""


def upgraded(plain: Plain, *, where: str) -> Plain:
    """The same in today's format, with its "format" and "kind".

    Raises:
        CheckpointError: it is of a newer format, or of none of metasum's.
    """
    version = plain.get("format", 1)
    if version == 1:
        kind = next((kind for key, kind in KEYS_OF_FORMAT_1.items() if key in plain), None)
        if kind is None:
            raise CheckpointError(f"{where} is damaged, or does not hold a result of metasum.")
        return {"format": FORMAT, "kind": kind, **plain}  # format 2 has the same fields
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(f"{where} has format {version}; this version of metasum reads formats 1 to {FORMAT}.")
    if "kind" not in plain:
        raise CheckpointError(f"{where} is damaged: kind is missing.")
    return plain
