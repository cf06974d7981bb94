"""Draws the picture of results.md's proximity sweep: `python docs/proximity_picture.py SWEEP TWO_HEAD_RUN`.

SWEEP is the folder that `metasum sweep wandb_sweeps/proximity.yaml` left, TWO_HEAD_RUN that of a two-head run.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
STYLES = {0.5: {"linestyle": "--"}, 0.9: {"linestyle": "-"}}
COLOURS = {"mnist": "#d1495b", "cifar10": "#2e86ab"}


def main(sweep, two_head):
    trials = json.loads((Path(sweep) / "results.json").read_text())["trials"]
    limit = json.loads((Path(two_head) / "result.json").read_text())["accuracy"]
    strengths = sorted({trial["values"]["proximity"] for trial in trials})
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for side, axis, name in (("target", axes[0], "mnist"), ("support", axes[1], "cifar10")):
        for decay, style in STYLES.items():
            own = {t["values"]["proximity"]: t["numbers"] for t in trials if t["values"]["proximity_decay"] == decay}
            for when, shade in (("before", 0.4), ("after", 1.0)):
                heights = [100 * own[strength][f"{side}_{when}"] for strength in strengths]
                label = f"{'alone' if when == 'before' else 'after the average'}, decay {decay}"
                axis.plot(heights, marker="o", markersize=4, alpha=shade, color=COLOURS[name], label=label, **style)
        axis.axhline(100 * limit[side]["after"], color="#6f7782", linewidth=1, linestyle=":", label="two heads")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("λ (0: trained apart)")
        axis.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 102 if name == "mnist" else 70)
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "proximity.svg", metadata={"Date": None})


main(*sys.argv[1:])
