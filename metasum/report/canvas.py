"""What every picture has in common: SVG text that takes the page's own ink, so that light and dark themes both read."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 36  # characters of a name in a picture; the table beside it has the whole name
INK = "#010203"  # stands for the page's text colour until `svg` puts `currentColor` in its place
TARGET, SUPPORT, SUM, SUM_SUPPORT = "#d1495b", "#2e86ab", "#8f5bb5", "#3a9e75"
_COLOURS = (SUM, SUPPORT, TARGET, SUM_SUPPORT, "#c98a1b", "#6f7782", "#b8578f", "#5a9bd4")


def line_styles() -> Iterator[dict[str, Any]]:
    """Colours and dashes for any number of lines, none of the first 24 like another."""
    for dash in itertools.cycle(("-", "--", ":")):
        for colour in _COLOURS:
            yield {"color": colour, "linestyle": dash}


def short(name: str, longest: int = LONGEST) -> str:
    """A name with its middle left out where it is too long for a picture; of paths, more of the end is kept."""
    if len(name) <= longest:
        return name
    start = (longest - 1) // 3
    return f"{name[:start]}…{name[start + 1 - longest :]}"


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
    """The figure as SVG text without width and height, so that the page sets its size; long names are shortened."""
    import matplotlib

    if legend:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    _shorten(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "metasum"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace(INK, "currentColor")
    text = text[text.index("<svg") :]
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)


def legend_above(figure: Figure, labels: Collection[str]) -> None:
    """A legend above the axes: in one row, or one below the other where that would be wider than the picture."""
    columns = len(labels) if sum(len(short(label)) + 4 for label in labels) < 80 else 1
    figure.legend(frameon=False, labelcolor=INK, fontsize=9, loc="outside upper center", ncols=columns)


def _shorten(figure: Figure) -> None:
    """Names of networks, layers and datasets are of any length; the axes would have no room beside them."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if any(len(label) > LONGEST for label in labels):
                axis.set_ticks(axis.get_ticklocs(), [short(label) for label in labels])
        for text in axes.texts:
            text.set_text(short(text.get_text()))
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]:
        for text in legend.get_texts() if legend else ():
            text.set_text(short(text.get_text()))
