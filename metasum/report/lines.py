"""The line between two networks, as a figure of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metasum.report.canvas import INK, SUM, TARGET, canvas
from metasum.results.modules import LineBetweenModules

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def line_figure(line: LineBetweenModules) -> Figure:
    """Accuracy (left, in percent) and loss (right, in nats) along a line; or a metric alone."""
    classified = line.points[0].metric is None
    recalibrated = "\nbatch-norm statistics recomputed at each point, both ends too" if line.recalibrated else ""
    x = f"α: first network at 0, second at 1{recalibrated}"
    figure, axes = canvas(x, "accuracy (%)" if classified else "metric")
    if not classified:
        _draw(axes, line.alphas, line.metric, "metric", SUM)
        return figure
    _draw(axes, line.alphas, [100 * (share or 0) for share in line.accuracy], "accuracy", SUM)
    axes.set_ylim(0, 103)
    other = axes.twinx()
    _draw(other, line.alphas, line.loss, f"loss, barrier {line.barrier:.3g} nats", TARGET)
    other.set_ylim(bottom=0)
    other.set_ylabel("loss (nats)", color=INK)
    other.tick_params(colors=INK)
    figure.legend(frameon=False, labelcolor=INK, fontsize=9, loc="outside upper center", ncols=2)
    return figure


def _draw(axes: Axes, alphas: Sequence[float], values: Sequence[float | None], label: str, colour: str) -> None:
    axes.plot(alphas, [float("nan") if v is None else v for v in values], "o-", label=label, color=colour, markersize=4)
