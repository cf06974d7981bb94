"""From a template and values to one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasum.errors import CheckpointError
from metasum.files import write_text
from metasum.spread import in_short, with_spread

if TYPE_CHECKING:
    from jinja2 import Environment

Figures = list[tuple[str, str, str]]
"""(title, caption, SVG) in reading order."""


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
        page = _environment().get_template(template).render(**context())
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, UndefinedError) as error:
        raise CheckpointError(f"{folder} holds files of another version or program ({error!r}).") from error
    path = folder / "report.html"
    write_text(path, page)
    return path


def sections_of(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Settings by section; those outside any section come first, as "run"."""
    sections = {name: values for name, values in settings.items() if isinstance(values, dict)}
    return {"run": {name: value for name, value in settings.items() if name not in sections}, **sections}


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metasum.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": _percent, "points": _points, "spread": _spread, "pairs": _pairs, "short": _short}
    return environment


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}\u00a0%"


def _short(value: Any) -> str:
    return "–" if value is None else in_short(value)


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _spread(values: Mapping[str, float | None], scale: float = 100, digits: int = 2) -> str:
    return with_spread(values, scale=scale, digits=digits)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
