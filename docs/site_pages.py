"""What the site's pages get when they are built: the reference, from `metasum.__all__` and docstrings.

mkdocs calls `on_page_markdown` for each page (mkdocs.yml names this file).
"""

from __future__ import annotations

from typing import Any

import metasum
from metasum.config import Checked
from metasum.config.field import options_of

HOMES = metasum._HOMES  # by public name: the module that it lives in
PLACE = "<!-- every public name -->"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text; on the reference page, every public name's docstring in its place."""
    return markdown.replace(PLACE, reference()) if page.file.src_uri == "reference.md" else markdown


def reference() -> str:
    """A list of all public names, then each with its docstring and, for settings, a table of its fields."""
    names = metasum.__all__
    listed = " · ".join(f"[`{name}`][{HOMES[name]}.{name}]" for name in names)
    return "\n\n".join([listed, *(section_of(name) for name in names)])


def section_of(name: str) -> str:
    """The directive that mkdocstrings fills in."""
    fields = fields_of(getattr(metasum, name))
    own = f"::: {HOMES[name]}.{name}"
    return f"{own}\n    options:\n      members: false\n\n{fields}" if fields else own


def fields_of(thing: Any) -> str:
    """A table of settings, which say what they mean; of anything else, nothing."""
    if not isinstance(thing, type) or not issubclass(thing, Checked):
        return ""
    rows = [(leaf.name, leaf.default, leaf.metadata["help"]) for leaf in options_of(thing)]
    table = ["| field | default | meaning |", "| --- | --- | --- |"]
    table += [f"| `{field}` | `{default!r}` | {cell(meaning)} |" for field, default, meaning in rows]
    return "\n".join(table)


def cell(text: str) -> str:
    """Text that a table's cell can hold."""
    return text.replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;")
