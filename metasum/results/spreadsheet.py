"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from metasum.results.table import Table


def as_csv(table: Table[Any]) -> str:
    """The rows with nested names joined by dots, a line each, as spreadsheets and pandas read them."""
    rows = table.flat("csv")
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
