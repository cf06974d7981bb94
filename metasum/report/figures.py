"""The report's pictures, as SVG text that takes the page's own ink, so that light and dark themes both read."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metasum.weights.geometry import LayerGeometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour until `_svg` puts `currentColor` in its place
TARGET, SUPPORT, SUM, SUM_SUPPORT = "#d1495b", "#2e86ab", "#8f5bb5", "#3a9e75"
COLOURS = {"target": TARGET, "support": SUPPORT, "sum": SUM, "sum_support": SUM_SUPPORT}
NAMES = {
    "target": "target network on target",
    "support": "support network on support",
    "sum": "sum on target",
    "sum_support": "sum on support",
}
Record = Mapping[str, Any]


def loss_curves(records: Sequence[Record]) -> str:
    """Loss terms over the steps, from the "step" lines of metrics.jsonl, logarithmic."""
    figure, axes = _canvas("step", "loss (nats per image)")
    steps = [record["step"] for record in records]
    for name in records[0]["losses"]:
        values = [record["losses"][name] for record in records]
        axes.plot(steps, values, label=NAMES.get(name, name), color=COLOURS.get(name), linewidth=1.6)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    return _svg(figure, axes)


def accuracy_curves(records: Sequence[Record]) -> str:
    """Accuracy alone (dashed) and in the sum over the steps, from the "evaluation" lines of metrics.jsonl."""
    figure, axes = _canvas("step", "accuracy (%)")
    steps = [record["step"] for record in records]
    for side, alone, summed in (("target", TARGET, SUM), ("support", SUPPORT, SUM_SUPPORT)):
        for when, colour, style in (("before", alone, "--"), ("after", summed, "-")):
            values = [100 * record["accuracy"][side][when] for record in records]
            label = f"{side}, {'alone' if when == 'before' else 'in the sum'}"
            axes.plot(steps, values, style, marker="o", markersize=4, color=colour, label=label, linewidth=1.6)
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    return _svg(figure, axes)


def layer_curves(pairs: Mapping[str, Sequence[LayerGeometry]], *, quantity: str) -> str:
    """One quantity of `LayerGeometry` ("cosine" or "norm_ratio") over the layers, a line for each entry of `pairs`."""
    figure, axes = _canvas("", {"cosine": "cosine similarity", "norm_ratio": "norm ratio, target / support"}[quantity])
    for (label, layers), colour in zip(pairs.items(), (SUM, SUM_SUPPORT), strict=False):
        values = [getattr(layer, quantity) for layer in layers]
        axes.plot(range(len(layers)), values, "o-", color=colour, label=label, markersize=4, linewidth=1.6)
        axes.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=60, ha="right", fontsize=8)
    axes.axhline({"cosine": 0.0, "norm_ratio": 1.0}[quantity], color=INK, linewidth=0.8, alpha=0.5)
    return _svg(figure, axes)


def _canvas(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, which="both")
    axes.grid(alpha=0.25, color=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    import matplotlib

    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "metasum"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace(INK, "currentColor")
    text = text[text.index("<svg") :]
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
