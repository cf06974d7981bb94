"""The page of finished networks: alone, merged by each method, as an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metasum.files import make_folder, write_text
from metasum.report.figures import Figures, accuracy_dots, line_curves
from metasum.report.page import rendered, write_page
from metasum.results.accuracy import Spread
from metasum.results.networks import NetworksResult, networks_table

TEMPLATE = "networks.html.j2"


def write_networks_page(result: NetworksResult, path: Path) -> Path:
    """Draws the page at `path`, and returns it; raises StorageError where it could not be written."""
    make_folder(path.parent)
    write_text(path, rendered(TEMPLATE, _context(result)))
    return path


def write_networks_report(folder: Path) -> Path:
    """Draws `report.html` in a folder from its results.json; raises CheckpointError where that is missing or broken."""
    return write_page(folder, TEMPLATE, lambda: _context(NetworksResult.read(folder / "results.json")))


def _context(result: NetworksResult) -> dict[str, Any]:
    return {"result": result, "table": networks_table(result), "figures": _figures(result)}


def _figures(result: NetworksResult) -> Figures:
    rows = [row for row in networks_table(result).rows if len(row.on) == len(result.datasets)]
    if any(found.accuracy is None for row in rows for found in row.on.values()):
        return []
    dots = {row.name: {name: Spread(row.on[name].accuracy, None) for name in result.datasets} for row in rows}
    figures: Figures = []
    if dots and len(result.datasets) <= 4:
        series = {name: f"on {name}" for name in result.datasets}
        picture = accuracy_dots(dots, series=series, coloured=True)
        figures.append(("Accuracy", "Of each network on each dataset.", picture))
    if result.lines:
        curves = {
            f"on {name}": (line.alphas, [share or 0.0 for share in line.accuracy])
            for name, line in result.lines.items()
        }  # in the order, and so in the colours, of the datasets above
        barriers = ", ".join(f"{line.barrier:.3g} nats on {name}" for name, line in result.lines.items())
        first, second = result.networks
        figures.append(
            (
                f"Along the line from {first} to {second}",
                f"Loss barrier: {barriers}.{_statistics(result)}",
                line_curves(curves, ends=(first, second)),
            )
        )
    return figures


def _statistics(result: NetworksResult) -> str:
    """Whose statistics networks on the line have, where that is to be said."""
    recalibrated = next(iter(result.lines.values())).recalibrated
    if recalibrated is None:
        return ""
    if recalibrated:
        return (
            " At every point, both ends included, batch-norm statistics are recomputed on the images of both networks: "
            "the ends are the networks recalibrated, and the table has each alone as it was given."
        )
    return " Batch-norm statistics lie on the line as the weights do, which makes barriers look higher than they are."
