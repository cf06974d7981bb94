"""Draws the picture of strangers.md: `python docs/strangers_pictures.py RUNS …`.

RUNS are the folders that `--out` was in its commands; every experiment in them is a point of the picture.
"""

import json
import sys
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.figure import Figure

HERE = Path(__file__).parent
LINES = {
    "blocks": ("blocks", "stranger", "#3a9e75", "-"),
    "ensemble of independent networks": ("independent", "ensemble", "#6f7782", ":"),
    "independent networks, summed": ("independent", "stranger", "#6f7782", "-"),
    "the same, from the meta-learnt start": ("metasum-meta", "stranger", "#8f5bb5", "-"),
    "the same, merged by RegMean": ("regmean", "stranger", "#b5495b", "-"),
}
"""Label: learner, measure, colour and dash."""


def experiments(folders):
    return [
        json.loads(path.read_text())
        for folder in folders
        for path in sorted(Path(folder).glob("experiments/*/results.json"))
    ]


def kept(result, learner, measure):
    """Of each seed: the share of the accuracy alone that is left, in percent, the mean of the targets."""
    rows = [row["accuracy"] for row in result["rows"] if row["learner"] == learner]
    return [100 * fmean(row[name][measure] / row[name]["before"] for name in result["targets"]) for row in rows]


def picture(found):
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for label, (learner, measure, colour, dash) in LINES.items():
        points = {len(result["targets"]): values for result in found if (values := kept(result, learner, measure))}
        counts = sorted(points)
        spreads = [stdev(points[count]) if len(points[count]) > 1 else 0 for count in counts]
        if counts:
            means = [fmean(points[count]) for count in counts]
            axes.errorbar(counts, means, yerr=spreads, label=label, color=colour, linestyle=dash, marker=".", capsize=3)
    counts = sorted({len(result["targets"]) for result in found})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, map(str, counts))
    axes.set_xlabel("networks added")
    axes.set_ylabel("accuracy kept, % (mean of the datasets)")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    figure.savefig(HERE / "strangers.svg", metadata={"Date": None})


if __name__ == "__main__":
    picture(experiments(sys.argv[1:]))
