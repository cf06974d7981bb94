"""The reports' pictures, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metasum.report.canvas import INK, SUM, SUM_SUPPORT, SUPPORT, TARGET, canvas, legend_above, line_styles, short, svg
from metasum.results.accuracy import Spread
from metasum.results.pictures import LayerGeometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"target": TARGET, "support": SUPPORT, "sum": SUM, "sum_support": SUM_SUPPORT}
NAMES = {
    "target": "target network on target",
    "support": "support network on support",
    "sum": "sum on target",
    "sum_support": "sum on support",
}
MARKS = ("|", "o", "s", "^")
FLOOR = 1e-4  # nats per image; what is below is drawn there
Record = Mapping[str, Any]
Figures = list[tuple[str, str, str]]
"""(title, caption, SVG) in reading order."""
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By label: where on the x axis, and the accuracies in [0, 1] there."""


def loss_curves(records: Sequence[Record]) -> str:
    """Loss terms over the steps, from the "step" lines of metrics.jsonl, logarithmic."""
    figure, axes = canvas("step", "loss (nats per image)")
    steps = [record["step"] for record in records]
    for name in records[0]["losses"]:
        values = [max(record["losses"][name], FLOOR) for record in records]
        axes.plot(steps, values, label=NAMES.get(name, name), color=COLOURS.get(name), linewidth=1.6)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    return svg(figure, axes)


def accuracy_curves(records: Sequence[Record]) -> str:
    """Accuracy alone (dashed) and in the sum over the steps, from the "evaluation" lines of metrics.jsonl."""
    figure, axes = canvas("step", "accuracy (%)")
    steps = [record["step"] for record in records]
    for side, alone, summed in (("target", TARGET, SUM), ("support", SUPPORT, SUM_SUPPORT)):
        for when, colour, style in (("before", alone, "--"), ("after", summed, "-")):
            values = [100 * record["accuracy"][side][when] for record in records]
            label = f"{side}, {'alone' if when == 'before' else 'in the sum'}"
            axes.plot(steps, values, style, marker="o", markersize=4, color=colour, label=label, linewidth=1.6)
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    return svg(figure, axes)


def layer_figures(
    pairs: Mapping[str, Sequence[LayerGeometry]], between: str, *, angle: str, length: str, ratio: str
) -> Figures:
    """Angles and lengths of two networks' layers, a line for each entry of `pairs`.

    Args:
        pairs: layers by label.
        between: what the networks are called in the titles.
        angle: caption of the angles; `length`: of the lengths.
        ratio: whose norm over whose, for the axis.
    """
    cosines = _layer_curves(pairs, "cosine", "cosine similarity", level=0.0)
    norms = _layer_curves(pairs, "norm_ratio", f"norm ratio, {ratio}", level=1.0)
    return [(f"Angle between {between}", angle, cosines), (f"Length of {between}", length, norms)]


def _layer_curves(pairs: Mapping[str, Sequence[LayerGeometry]], quantity: str, axis: str, *, level: float) -> str:
    figure, axes = canvas("", axis)
    for (label, layers), style in zip(pairs.items(), line_styles(), strict=False):
        values = [math.nan if getattr(layer, quantity) is None else getattr(layer, quantity) for layer in layers]
        axes.plot(range(len(layers)), values, marker="o", label=label, markersize=4, linewidth=1.6, **style)
        axes.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=60, ha="right", fontsize=8)
    axes.axhline(level, color=INK, linewidth=0.8, alpha=0.5)
    return svg(figure, axes)


def line_curves(lines: Lines, *, ends: tuple[str, str], among: Sequence[str] = ()) -> str:
    """Accuracy along the line between two networks, where α is 0 at the first end and 1 at the second.

    Args:
        lines: by label.
        ends: what the networks are called.
        among: all labels of the page, where a picture has some of them: each has one colour in all pictures.
    """
    return svg(*_accuracies(lines, f"α: {short(ends[0], 26)} at 0, {short(ends[1], 26)} at 1", "accuracy (%)", among))


def sum_curves(lines: Lines) -> str:
    """Accuracy in the sum over the steps of training."""
    figure, axes = _accuracies(lines, "step", "accuracy after the sum (%)")
    axes.set_xlim(left=0)
    return svg(figure, axes)


def _accuracies(lines: Lines, x: str, y: str, among: Sequence[str] = ()) -> tuple[Figure, Axes]:
    figure, axes = canvas(x, y)
    styles = dict(zip(dict.fromkeys([*among, *lines]), line_styles(), strict=False))
    for label, (places, values) in lines.items():
        shares = [100 * value for value in values]
        axes.plot(places, shares, marker="o", label=label, markersize=3.5, linewidth=1.6, **styles[label])
    axes.set_ylim(0, 103)
    return figure, axes


def confusion_matrix(matrix: Sequence[Sequence[int]]) -> str:
    """Share of each class's images (row) that were taken for each class (column), darker for more."""
    figure, axes = canvas("taken for class", "class", height=5)
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in matrix]
    axes.grid(visible=False)
    axes.pcolormesh(shares, cmap="Purples", vmin=0, vmax=100, edgecolors="none")
    axes.invert_yaxis()
    axes.set_aspect("equal")
    size = len(matrix)
    every = range(0, size, 1 if size <= 12 else 5)
    axes.set_xticks([i + 0.5 for i in every], [str(i) for i in every])
    axes.set_yticks([i + 0.5 for i in every], [str(i) for i in every])
    if size <= 12:
        for row, values in enumerate(shares):
            for column, share in enumerate(values):
                if round(share) > 0:
                    ink = "white" if share > 55 else "#2a2433"
                    axes.text(column + 0.5, row + 0.5, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=8)
    return svg(figure, axes, legend=False)


def accuracy_dots(
    rows: Mapping[str, Mapping[str, Spread]], *, series: Mapping[str, str], coloured: bool = False
) -> str:
    """A line for each learner, with a mark and its standard deviation for each series.

    Args:
        rows: by learner, by series, mean and standard deviation of accuracies in [0, 1].
        series: keys of the rows, with what to call them; four at most.
        coloured: whether they are told apart by the colours that `line_curves` gives as many lines in this order, and
            not by the marks' shapes: colours of lines that mean something else are not used here.
    """
    figure, axes = canvas("accuracy (%)", "", height=1.2 + 0.3 * len(rows))
    for (key, label), mark, style in zip(series.items(), MARKS, line_styles(), strict=False):
        shares = [row[key].mean for row in rows.values()]
        means = [math.nan if share is None else 100 * share for share in shares]
        deviations = [100 * (row[key].std or 0) for row in rows.values()]
        look: dict[str, Any] = {"fmt": "o", "color": style["color"], "markersize": 5}
        if not coloured:
            look = {"fmt": mark, "color": INK, "markersize": 11 if mark == "|" else 5}
            look |= {"markerfacecolor": "none"} if mark == "s" else {}
        axes.errorbar(means, range(len(rows)), xerr=deviations, label=label, **look)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, 103)
    legend_above(figure, series.values())
    return svg(figure, axes, legend=False)
