"""Tables as W&B takes them."""

from __future__ import annotations

from typing import Any

from metasum.results.table import Table


def wandb_table(wandb: Any, table: Table[Any]) -> Any:
    """A `wandb.Table`; `wandb` is the module, which takes seconds to import."""
    rows = table.flat("wandb")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])


def fields_by_learner(table: Table[Any]) -> dict[str, float]:
    """Every number in a table whose rows are learners, as `LEARNER/COLUMN`."""
    rows = table.flat("wandb")
    fields = ((f"{row['learner']}/{name}", value) for row in rows for name, value in row.items())
    return {name: value for name, value in fields if isinstance(value, int | float)}
