"""Tables as the page's macro draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from metasum.results.table import Aside, Column, Table


class PageCell(NamedTuple):
    """What stands in a cell of the page."""

    text: str
    aside: str
    """In softer ink."""
    link: str | None
    style: str
    """CSS classes, joined by spaces."""


@dataclass(frozen=True)
class PageTable:
    """A table in words, for the macro `table` of parts.html.j2."""

    headline: bool
    """Whether some column is what the page is about."""
    heads: list[tuple[str, str]]
    """Text and CSS classes; none where no column has a head."""
    rows: list[list[PageCell]]


def on_page(table: Table[Any]) -> PageTable:
    """The table with its cells in words."""
    columns = table.on("page")
    heads = [
        (column.head if column.page_head is None else column.page_head, "n" if column.kind.right else "")
        for column in columns
    ]
    return PageTable(
        headline=any(column.accent for column in columns),
        heads=heads if any(text for text, _ in heads) else [],
        rows=[[_cell(column, row) for column in columns] for row in table.rows],
    )


def _cell(column: Column[Any], row: Any) -> PageCell:
    value = column.value(row)
    text, aside = value if isinstance(value, Aside) else (column.kind.text(value, "page"), "")
    accent = column.accent(row) if callable(column.accent) else column.accent
    style = " ".join(name for name, wanted in (("n", column.kind.right), ("after", accent)) if wanted)
    return PageCell(text, aside, column.link(row) if column.link else None, style)
