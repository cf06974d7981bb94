"""Results on stdout: JSON for programs, tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import click

from metasum.errors import StorageError
from metasum.files import json_text
from metasum.plain_text import plain
from metasum.results.stdout import results_stream
from metasum.results.table import Table
from metasum.results.value import Result

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Part: TypeAlias = Table[Any] | str
R = TypeVar("R")
NAME = 24  # characters of a name's word that stand in one line


def show(result: R, *, as_json: bool, parts: Callable[[R], Iterable[Part]]) -> None:
    """Prints a result (or what is to be printed as JSON), or the tables and lines that `parts` makes of it."""
    try:
        _print(result, as_json=as_json, parts=parts)
    except OSError as error:
        if error.filename is not None:
            raise
        raise StorageError(f"cannot write the result to standard output: {error.strerror or error}.") from error


def _print(result: R, *, as_json: bool, parts: Callable[[R], Iterable[Part]]) -> None:
    if as_json:
        found = result.to_json() if isinstance(result, Result) else result
        click.echo(json_text(found, indent=2), file=results_stream())
        return
    from rich.console import Console

    console = Console(file=results_stream())
    for part in parts(result):
        title = part if isinstance(part, str) else part.title
        if title:
            console.print(plain(title), highlight=False, markup=False, soft_wrap=True)  # no path is broken
        if not isinstance(part, str):
            console.print(rich_table(part), highlight=False, markup=False)
            for note in part.notes:
                console.print(plain(note), highlight=False, markup=False, soft_wrap=True)


def rich_table(table: Table[Any]) -> RichTable:
    """The table as rich draws it: as wide as it needs to be, folded where the terminal is narrower.

    The first column is what the rows are called: in them, words of up to `NAME` characters are never broken.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    columns, drawn = table.on("terminal"), RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [[plain(column.kind.text(column.value(row), "terminal")) for column in columns] for row in table.rows]
    for index, column in enumerate(columns):
        name = 0 if index else max((len(word) for row in rows for word in row[0].split()), default=0)
        justify: Literal["left", "right"] = "right" if column.kind.right else "left"
        drawn.add_column(column.head, justify=justify, overflow="fold", min_width=min(name, NAME) or None)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn
