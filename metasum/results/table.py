"""A table's columns, declared once for the terminal, CSV, the page and W&B.

A table is a few lines where its rows are known:

    Table((Column("learner", lambda row: row.learner), Column("before", lambda row: row.before, PERCENT)), rows)

`metasum.results.terminal`, `.page` and `.exports` render it.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from metasum.results.accuracy import EpisodeAccuracy, Spread

Row = TypeVar("Row")
Medium: TypeAlias = Literal["terminal", "page", "csv", "wandb"]


class Aside(NamedTuple):
    """Text with a remark, which the page shows in softer ink."""

    text: str
    aside: str

    def __str__(self) -> str:
        return f"{self.text} {self.aside}"


Cell: TypeAlias = str | float | Spread | EpisodeAccuracy | Aside | None
"""What a column says of a row. None is shown as –, text as it is, spreads and intervals behind ±."""


@dataclass(frozen=True)
class Kind:
    """How a number is written for people; programs are given the number itself."""

    spec: str = ""
    """As behind the colon of an f-string."""
    scale: float = 1
    unit: str = ""
    """Behind a number on the terminal; `page_unit`: on the page."""
    page_unit: str = ""
    page_spec: str | None = None
    """On the page, where that is another one."""
    right: bool = True
    """Whether the column stands on the right, as numbers do."""

    def text(self, value: Cell, medium: Medium) -> str:
        """A cell, for people."""
        if value is None:
            return "–"
        if isinstance(value, str | Aside):
            return str(value)
        unit = self.page_unit if medium == "page" else self.unit
        if isinstance(value, Spread):
            if value.mean is None:
                return "–"
            more = "" if value.std is None else f" ± {self._number(value.std, medium)}"
            return f"{self._number(value.mean, medium)}{unit}{more}"
        if isinstance(value, EpisodeAccuracy):
            interval = self._number(value.interval, medium).lstrip("+")
            return f"{self._number(value.mean, medium)}{unit} ± {interval}"
        return self._number(value, medium) + unit

    def _number(self, value: float, medium: Medium) -> str:
        spec = self.page_spec if medium == "page" and self.page_spec is not None else self.spec
        return format(value * self.scale if self.scale != 1 else value, spec)


TEXT = Kind(right=False)
NUMBER = Kind()
"""Just as it is."""
COUNT = Kind(",")
PERCENT = Kind(".2f", 100, unit="%", page_unit="\u00a0%")
SHARE = Kind(".2f", 100)
"""A share in percent, where the heading says so."""
POINTS = Kind("+.2f", 100)
WHOLE = Kind(".0f")
TENTHS = Kind(".1f")
HUNDREDTHS = Kind(".2f")
THOUSANDTHS = Kind(".3f")
GIBIBYTES = Kind(".2f", 2**-30)
MEBIBYTES = Kind(".0f", 2**-20)


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column."""

    head: str
    value: Callable[[Row], Cell]
    kind: Kind = TEXT
    name: str = ""
    """For programs: nested names are joined by dots [default: the head]."""
    page_head: str | None = None
    """On the page, where there is room for another head."""
    accent: bool | Callable[[Row], bool] = False
    """Whether the page shows it as what the table is about."""
    only: Medium | None = None
    """The one medium that has this column."""
    link: Callable[[Row], str | None] | None = None
    """Where the page's cell leads."""


def attributes(*names: str, kind: Kind = TEXT) -> list[Column[Any]]:
    """A column for each of these attributes of the rows, called as it is; "accuracy.after" is one of an attribute's."""
    return [Column(name, operator.attrgetter(name), kind) for name in names]


@dataclass(frozen=True)
class Table(Generic[Row]):
    """Columns and the rows that they are about."""

    columns: Sequence[Column[Row]]
    rows: Sequence[Row]
    title: str = ""
    """A line above it on the terminal."""
    notes: Sequence[str] = ()
    """Sentences below it, for people."""

    def on(self, medium: Medium) -> list[Column[Row]]:
        """The columns that a medium shows."""
        return [column for column in self.columns if column.only in (None, medium)]

    def only(self, *names: str) -> Table[Row]:
        """With the columns alone that programs call so."""
        columns = [column for column in self.columns if (column.name or column.head) in names]
        return dataclasses.replace(self, columns=columns)

    def flat(self, medium: Medium) -> list[dict[str, Any]]:
        """The rows as numbers and text under the columns' names, for programs.

        A mean and its deviation (or interval) get two names: "NAME.mean" and "NAME.std" (".interval") in CSV. W&B knows
        no dots: it has "NAME" and "NAME_std", "_" between nested names, and leaves out the word "accuracy" before them.
        """
        return [self._flat(row, medium) for row in self.rows]

    def _flat(self, row: Row, medium: Medium) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for column in self.on(medium):
            name, value = column.name or column.head, column.value(row)
            if medium == "wandb":
                name = name.removeprefix("accuracy.").replace(".", "_")
            if isinstance(value, Spread | EpisodeAccuracy):
                mean, sign = (name, "_") if medium == "wandb" else (f"{name}.mean", ".")
                more = {"std": value.std} if isinstance(value, Spread) else {"interval": value.interval}
                found |= {mean: value.mean} | {f"{name}{sign}{word}": number for word, number in more.items()}
            else:
                found[name] = str(value) if isinstance(value, Aside) else value
        return found
