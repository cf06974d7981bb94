"""From the results of single runs to the table of a comparison: pure functions on plain dictionaries."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metasum.spread import retention, spread

SIDES = ("target", "support")
MEASURES = ("before", "after", "drop", "retention")
COSTS = ("seconds", "sum_seconds", "peak_bytes", "images_per_second")


def row_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """One run's row: its accuracies in [0, 1] with drop (before - after) and retention (after / before), its costs."""
    kept = ("learner", "seed", "operator", "accuracy", *COSTS, "run")
    derived = {
        side: {"drop": accuracy["before"] - accuracy["after"], "retention": retention(**accuracy)}
        for side, accuracy in result["accuracy"].items()
    }
    row = {name: result[name] for name in kept}
    row["accuracy"] = {side: {**result["accuracy"][side], **derived[side]} for side in SIDES}
    return row


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each learner, in the order in which they first appear, over its seeds."""
    summary = []
    for learner in dict.fromkeys(row["learner"] for row in rows):
        own = [row for row in rows if row["learner"] == learner]
        accuracies = {
            side: {measure: spread(row["accuracy"][side][measure] for row in own) for measure in MEASURES}
            for side in SIDES
        }
        costs = {cost: spread(row[cost] for row in own) for cost in COSTS}
        summary.append({"learner": learner, "seeds": [row["seed"] for row in own], **accuracies, **costs})
    return summary


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows with nested names joined by dots, a line each, as spreadsheets and pandas read them."""
    flat = [dict(flattened(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def flattened(values: Mapping[str, Any], prefix: str = "", *, separator: str = ".") -> Iterable[tuple[str, Any]]:
    """Names and values of nested dictionaries, the names joined."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}{separator}", separator=separator)
        else:
            yield f"{prefix}{name}", value
