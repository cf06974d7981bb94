"""From a template and values to one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasum.errors import CheckpointError
from metasum.files import write_text
from metasum.results.page import on_page
from metasum.results.surroundings import named
from metasum.results.table import PERCENT

if TYPE_CHECKING:
    from jinja2 import Environment


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


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metasum.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "on_page": on_page,
        "pairs": named,
        "percent": lambda share: PERCENT.text(share, "page"),
    }
    return environment
