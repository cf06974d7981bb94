"""Tables for programs: as CSV, and as W&B takes them."""

from __future__ import annotations

import csv
import io
from typing import Any

from metasum.results.table import Medium, Table


def as_csv(table: Table[Any]) -> str:
    """The rows with nested names joined by dots, a line each, as spreadsheets and pandas read them."""
    names, rows = _names_and_rows(table, "csv")
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def wandb_table(wandb: Any, table: Table[Any]) -> Any:
    """A `wandb.Table`; `wandb` is the module, which takes seconds to import."""
    names, rows = _names_and_rows(table, "wandb")
    return wandb.Table(columns=names, data=[[row.get(name) for name in names] for row in rows])


def fields_by_learner(table: Table[Any]) -> dict[str, float]:
    """Every number in a table whose rows are learners, as `LEARNER/COLUMN`."""
    rows = table.flat("wandb")
    fields = ((f"{row['learner']}/{name}", value) for row in rows for name, value in row.items())
    return {name: value for name, value in fields if isinstance(value, int | float)}


def _names_and_rows(table: Table[Any], medium: Medium) -> tuple[list[str], list[dict[str, Any]]]:
    """Every name that some row has, and the rows by name."""
    rows = table.flat(medium)
    return list(dict.fromkeys(name for row in rows for name in row)), rows
