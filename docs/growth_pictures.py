"""Draws the pictures of speed.md: `python docs/growth_pictures.py width.json batch.json networks.json`.

Each file is what `metasum benchmark --measure step,memory --json` printed for several widths, batches or numbers of
networks; the commands are in speed.md.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLOURS = {"time": "#d1495b", "memory": "#2e86ab"}


def line(axes, sizes, heights, label, colour):
    """The measured values, and the straight line through the largest of them and 0."""
    axes.plot(sizes, heights, marker="o", markersize=4, color=colour)
    axes.plot(sizes, [heights[-1] * size / sizes[-1] for size in sizes], linestyle=":", color="#6f7782")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def main(*files):
    figure = Figure(figsize=(9, 5), layout="constrained")
    names = {"width": "parameters, millions", "batch_size": "images in a batch", "networks": "networks added"}
    for (upper, lower), (key, name), file in zip(
        figure.subplots(2, 3, sharex="col").T, names.items(), files, strict=True
    ):
        result = json.loads(Path(file).read_text())
        steps = [row for row in result["settings"] if row["what"] == "metasum"]
        sizes, memory = [row[key] for row in steps], result["memory"]
        if key == "width":  # parameters and operations grow with its square
            sizes = [own["parameters"] / 4 / own["networks"] / 1e6 for own in memory]
        line(upper, sizes, [row["ratio"] for row in steps], "step, times the first", COLOURS["time"])
        line(lower, sizes, [own["measured"] / 2**30 for own in memory], "memory, GiB", COLOURS["memory"])
        lower.set_xlabel(name)
        for axes in (upper, lower):
            axes.loglog(base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_formatter("{x:.2g}")
    figure.savefig(HERE / "growth.svg", metadata={"Date": None})


main(*sys.argv[1:])
