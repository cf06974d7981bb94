"""Draws the picture of strangers.md: `python docs/strangers_pictures.py RUNS …`.

RUNS are the folders that `--out` was in its commands; every experiment in them is a point of the picture.
"""

import json
import sys
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.figure import Figure

HERE = Path(__file__).parent
STYLES = {
    "blocks": ("blocks", "#3a9e75", "-"),
    "side-by-side": ("independent, side by side (the ensemble)", "#3a9e75", ":"),
    "metasum-meta": ("independent from the meta-learnt start, summed", "#8f5bb5", "-"),
    "independent": ("independent, summed", "#6f7782", "-"),
    "average": ("independent, averaged", "#6f7782", "--"),
    "ties": ("TIES", "#c98a2b", "-"),
    "regmean": ("RegMean", "#b5495b", "-"),
    "weight-matching": ("weight matching", "#4a7fb5", "-"),
}


def experiments(folders):
    return [
        json.loads(path.read_text())
        for folder in folders
        for path in sorted(Path(folder).glob("experiments/*/results.json"))
    ]


def kept(rows):
    """Of each seed: the share of the accuracy alone that is left, in [0, 1], the mean of the targets."""
    return [fmean(found["retention"] for name, found in row["accuracy"].items() if name != "union") for row in rows]


def rows_of(result, learner):
    return [row for row in result["rows"] if row["learner"] == learner]


def picture(found):
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for learner, (label, colour, dash) in STYLES.items():
        points = {}
        for result in found:
            if rows := rows_of(result, learner):
                points[len(result["targets"])] = kept(rows)
        if points:
            counts = sorted(points)
            means = [100 * fmean(points[count]) for count in counts]
            deviations = [100 * stdev(points[count]) if len(points[count]) > 1 else 0 for count in counts]
            axes.errorbar(counts, means, yerr=deviations, label=label, color=colour, linestyle=dash, capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 4, 8, 16], ["2", "4", "8", "16"])
    axes.set_xlabel("networks added")
    axes.set_ylabel("accuracy kept, % (mean of the datasets)")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "strangers.svg", metadata={"Date": None})


if __name__ == "__main__":
    picture(experiments(sys.argv[1:]))
