"""From a template and values to one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from metasum.errors import CheckpointError
from metasum.files import write_text
from metasum.plain_text import plain
from metasum.results.comparison import ComparisonResult
from metasum.results.experiment import ExperimentResult
from metasum.results.few_shot import FewShotResult
from metasum.results.surroundings import Description, named
from metasum.results.table import PERCENT, Aside, Column, Table

if TYPE_CHECKING:
    from jinja2 import Environment

Described: TypeAlias = ComparisonResult | ExperimentResult | FewShotResult | Description


def write_page(folder: Path, template: str, context: Callable[[], Mapping[str, Any]]) -> Path:
    """Draws `report.html` in `folder`, and returns its path.

    Args:
        folder: of the run or study.
        template: its file name.
        context: makes the template's values from the folder's files.

    Raises:
        CheckpointError: the files are not those of this version of metasum.
    """
    from jinja2 import UndefinedError

    try:
        page = rendered(template, context())
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, UndefinedError) as error:
        raise CheckpointError(f"{folder} holds files of another version or program ({error!r}).") from error
    path = folder / "report.html"
    write_text(path, page)
    return path


def rendered(template: str, context: Mapping[str, Any]) -> str:
    """The page that a template makes of its values."""
    return _environment().get_template(template).render(**context)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metasum.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_plain,
    )
    environment.filters |= {
        "on_page": on_page,
        "pairs": named,
        "percent": lambda share: PERCENT.text(share, "page"),
    }
    return environment


def _plain(value: Any) -> Any:
    """What a template writes of a value: no control characters."""
    from markupsafe import Markup

    if isinstance(value, Markup):  # an SVG, or what a macro made: escaped already
        return Markup(plain(value))
    return plain(value) if isinstance(value, str) else value


def described(it: Described, **more: str) -> dict[str, Any]:
    """What a page says of settings, by section (those outside any come first, as "run"), and of surroundings.

    Args:
        it: what the page shows.
        more: what else it depends on, by name.
    """
    sections = {name: values for name, values in it.settings.items() if isinstance(values, Mapping)}
    run = {name: value for name, value in it.settings.items() if name not in sections}
    return {
        "settings": {name: _listing(values) for name, values in {"run": run, **sections}.items()},
        "surroundings": _listing({**it.data, **more, **it.versions, **it.machine}),
    }


def _listing(values: Mapping[str, Any]) -> Table[tuple[str, Any]]:
    """Names and values without heads."""

    def text(row: tuple[str, Any]) -> str | None:
        return None if row[1] is None else str(row[1])

    return Table((Column("", lambda row: row[0]), Column("", text)), tuple(values.items()))


class PageCell(NamedTuple):
    """What stands in a cell of the page."""

    text: str
    aside: str
    """In softer ink."""
    link: str | None
    style: str
    """CSS classes, joined by spaces."""


class PageTable(NamedTuple):
    """A table in words, for the macro `table` of parts.html.j2."""

    headline: bool
    """Whether some column is what the page is about."""
    heads: list[tuple[str, str]]
    """Text and CSS classes; none where no column has a head."""
    rows: list[list[PageCell]]
    notes: list[str]
    """Sentences below it."""


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
        notes=list(table.notes),
    )


def _cell(column: Column[Any], row: Any) -> PageCell:
    value = column.value(row)
    text, aside = value if isinstance(value, Aside) else (column.kind.text(value, "page"), "")
    accent = column.accent(row) if callable(column.accent) else column.accent
    style = " ".join(name for name, wanted in (("n", column.kind.right), ("after", accent)) if wanted)
    return PageCell(text, aside, column.link(row) if column.link else None, style)
