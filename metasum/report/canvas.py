"""What every picture has in common: SVG text that takes the page's own ink, so that light and dark themes both read."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour until `svg` puts `currentColor` in its place
TARGET, SUPPORT, SUM, SUM_SUPPORT = "#d1495b", "#2e86ab", "#8f5bb5", "#3a9e75"
_COLOURS = (SUM, SUPPORT, TARGET, SUM_SUPPORT, "#c98a1b", "#6f7782", "#b8578f", "#5a9bd4")


def line_styles() -> Iterator[dict[str, Any]]:
    """Colours and dashes for any number of lines, none of the first 24 like another."""
    for dash in itertools.cycle(("-", "--", ":")):
        for colour in _COLOURS:
            yield {"color": colour, "linestyle": dash}


def canvas(x: str, y: str, *, height: float = 3.5) -> tuple[Figure, Axes]:
    """An empty figure with labelled axes, `height` inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, which="both")
    axes.grid(alpha=0.25, color=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.patch.set_alpha(0)
    return figure, axes


def svg(figure: Figure, axes: Axes, *, legend: bool = True) -> str:
    """The figure as SVG text without width and height, so that the page sets its size."""
    import matplotlib

    if legend:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "metasum"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace(INK, "currentColor")
    text = text[text.index("<svg") :]
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
