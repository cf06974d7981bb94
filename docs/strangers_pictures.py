"""Draws the pictures of strangers.md from the folders that its commands leave: `python docs/strangers_pictures.py DIR`.

DIR holds what `--out` was in these commands: steps5, steps20 and steps100, their -random twins, res, and many-slots,
many-meta and many-independent.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from metasum.assembly.evaluating import evaluate

HERE = Path(__file__).parent
SHADES = {"metasum-meta": "#8f5bb5", "independent": "#6f7782"}


def results(folder):
    (path,) = (folder / "experiments").glob("*/results.json")
    return json.loads(path.read_text())


def alone(folder, result, row):
    """Accuracies of the row's networks with recalibrated statistics: after five steps running ones mean nothing."""
    found = {}
    for target in result["targets"]:
        run = folder / f"{target}+{result['support']}" / f"{row['learner']}-seed{row['seed']}"
        measured = evaluate(run / "target.safetensors", on=(target,), statistics="recalibrate")
        found[target] = measured.accuracy[target]
    return found


def points(result, key, *, folder=None):
    """Mean and standard deviation over seeds of the targets' mean, in percent."""
    values = []
    for row in result["rows"]:
        found = alone(folder, result, row) if folder else {t: row["accuracy"][t][key] for t in result["targets"]}
        values.append(100 * sum(found.values()) / len(found))
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5


def picture(name, x, lines, *, logarithmic=True, ticks=None):
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for label, (steps, found, style) in lines.items():
        means, spreads = zip(*found, strict=True)
        axes.errorbar(steps, means, yerr=spreads, label=label, capsize=3, **style)
    if logarithmic:
        axes.set_xscale("log", base=2)
    if ticks:
        axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xlabel(x)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(HERE / f"{name}.svg", metadata={"Date": None})


def inner_steps(root):
    lines = {}
    for label, learner, ending in (
        ("meta-learnt start", "metasum-meta", ""),
        ("random start", "independent", "-random"),
    ):
        counts = [5, 20, 100]
        found = [results(root / f"steps{count}{ending}") for count in counts]
        for key, dash in (("before", "--"), ("stranger", "-")):
            words = "alone" if key == "before" else "sum of strangers"
            style = {"color": SHADES[learner], "linestyle": dash}
            folders = [root / f"steps{count}{ending}" if key == "before" else None for count in counts]
            values = [points(result, key, folder=folder) for result, folder in zip(found, folders, strict=True)]
            lines[f"{label}, {words}"] = (counts, values, style)
    picture("strangers-inner-steps", "SGD steps that each network takes apart", lines, ticks=[5, 20, 100])


def meta_training(root):
    records = [json.loads(line) for line in (root / "res/meta/letters500/metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if record["kind"] == "evaluation"]
    steps = [record["step"] for record in records]
    lines = {}
    for key, words, dash in (("before", "alone", "--"), ("after", "in the sum", "-")):
        sides = [[100 * record["accuracy"][side][key] for side in ("target", "support")] for record in records]
        style = {"color": SHADES["metasum-meta"], "linestyle": dash}
        lines[words] = (steps, [(sum(pair) / 2, 0.0) for pair in sides], style)
    picture("strangers-meta-training", "meta-training steps", lines, logarithmic=False)


def networks_added(root):
    lines = {}
    for label, name, colour in (
        ("slots", "many-slots", "#3a9e75"),
        ("meta-learnt start", "many-meta", SHADES["metasum-meta"]),
        ("independent", "many-independent", SHADES["independent"]),
    ):
        found = {}
        for path in (root / name).rglob("experiments/*/results.json"):
            result = json.loads(path.read_text())
            for key, dash in (("before", "--"), ("stranger", "-")):
                found.setdefault(dash, {})[len(result["targets"])] = points(result, key)
        for dash, values in found.items():
            counts = sorted(values)
            words = "alone" if dash == "--" else "in the sum"
            style = {"color": colour, "linestyle": dash}
            lines[f"{label}, {words}"] = (counts, [values[count] for count in counts], style)
    picture("strangers-networks-added", "networks added", lines, ticks=[2, 3, 4, 8])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for draw in (inner_steps, meta_training, networks_added):
        draw(folder)
