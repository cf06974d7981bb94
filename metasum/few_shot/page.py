"""The report of few-shot learners side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasum.report.canvas import canvas, line_styles, svg
from metasum.report.figures import Figures, accuracy_dots
from metasum.report.page import described, write_page
from metasum.results.accuracy import Spread
from metasum.results.few_shot import FewShotResult
from metasum.results.few_shot_tables import (
    asked_table,
    differences_table,
    learners_table,
    reparameterised_table,
    then_table,
)
from metasum.results.surroundings import tuning_table
from metasum.training.run_folder import RunFolder


def write_few_shot_report(folder: Path) -> Path:
    """Draws `report.html` beside results.json, and returns its path.

    Raises:
        CheckpointError: a file is missing or damaged.
    """

    def context() -> dict[str, Any]:
        result = FewShotResult.read(folder / "results.json")
        return {
            "result": result,
            "learners": learners_table(result),
            "differences": differences_table(result),
            "asked": asked_table(result),
            "reparameterised": reparameterised_table(result),
            "then": then_table(result),
            "tuning": {
                name: (tuned, tuning_table(tuned, "accuracy, validation"))
                for name, tuned in (result.tuning or {}).items()
            },
            "figures": _figures(folder, result),
            **described(result),
        }

    return write_page(folder, "few_shot.html.j2", context)


def _figures(folder: Path, result: FewShotResult) -> Figures:
    dots = {
        f"{row.learner}, seed {row.seed}": {"accuracy": Spread(row.accuracy.mean, row.accuracy.interval)}
        for row in result.rows
    }
    figures = [
        (
            "Accuracy",
            f"On {result.settings['episodes']} episodes, the same for all, with the 95 % interval of the mean.",
            accuracy_dots(dots, series={"accuracy": "accuracy"}),
        )
    ]
    curves, best = dict[str, list[tuple[int, float]]](), dict[str, int]()
    for row in result.rows:
        name = Path(row.run).name
        found = [r for r in RunFolder(folder / name).metrics() if r["kind"] == "evaluation"] if row.steps else []
        if found:
            curves[name] = [(r["step"], r["accuracy"]["mean"]) for r in found]
            best |= {} if row.best_step is None else {name: row.best_step}
    if curves:
        caption = f"On {result.settings['validation_episodes']} episodes of validation classes."
        caption += " A star is the best, whose network was tested." if best else ""
        figures.append(("Accuracy over meta-training", caption, _lines(curves, "step", stars=best)))
    if result.asked:
        trained = {(row.learner, row.seed): row.accuracy.mean for row in result.rows}
        asked: dict[str, list[tuple[int, float]]] = {}
        for other in result.asked:
            name = f"{other.learner}, seed {other.seed}"
            start = [(result.ways, trained[other.learner, other.seed])]
            asked.setdefault(name, start).append((other.ways, other.accuracy.mean))
        caption = f"Trained {result.ways}-way, then asked for other numbers of classes."
        points = {name: sorted(set(found)) for name, found in asked.items()}
        figures.append(("Asked for other numbers of classes", caption, _lines(points, "ways")))
    return figures


def _lines(curves: Mapping[str, Sequence[tuple[int, float]]], x: str, *, stars: Mapping[str, int] | None = None) -> str:
    """A line for each curve; `stars` are the places, by curve, that are marked."""
    figure, axes = canvas(x, "accuracy (%)")
    for (label, points), style in zip(curves.items(), line_styles(), strict=False):
        numbers, values = zip(*points, strict=True)
        axes.plot(numbers, [100 * v for v in values], marker="o", label=label, markersize=3.5, linewidth=1.6, **style)
        if stars is not None and label in stars:
            place = stars[label]
            axes.plot(place, 100 * dict(points)[place], marker="*", markersize=13, color=style["color"])
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    return svg(figure, axes)
