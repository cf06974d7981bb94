"""The report of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metasum.report.canvas import INK, SUM, canvas, svg
from metasum.report.figures import Figures
from metasum.report.page import write_page
from metasum.results.surroundings import in_short, named
from metasum.results.sweep import STATES, SweepResult, Trial
from metasum.results.sweep_tables import all_table, closer_table


def write_sweep_report(folder: Path) -> Path:
    """Draws `report.html` beside results.json, and returns its path.

    Raises:
        CheckpointError: the file is missing or damaged.
    """

    def context() -> dict[str, Any]:
        result = SweepResult.read(folder / "results.json")
        counts = {word: len(result.ended(state)) for state, word in STATES.items()}
        return {
            "result": result,
            "best": closer_table(result, lambda trial: _report(folder, trial)),
            "every": all_table(result),
            "counts": ", ".join(f"{count} {word}" for word, count in counts.items() if count),
            "failed": [f"Trial {t.place + 1} ({named(t.values)}): {t.error}" for t in result.ended("fail")],
            "figures": _figures(result),
        }

    return write_page(folder, "sweep.html.j2", context)


def _report(folder: Path, trial: Trial) -> str | None:
    """The run's report as seen from the sweep's folder, where it lies below it."""
    path = Path(trial.run or "") / "report.html"
    try:
        inside = path.resolve().relative_to(folder.resolve())
    except ValueError:
        return None
    return quote(inside.as_posix()) if path.is_file() else None


def _figures(result: SweepResult) -> Figures:
    trials, metric, varied = result.ended("complete"), result.metric, result.varied()
    if metric is None or not trials or not varied:
        return []
    name = metric.name
    figures = [
        (
            "Parallel coordinates",
            f"A line for each finished trial, from its parameters to {name}; dark lines are the better ones.",
            parallel_coordinates(
                [{**trial.values, name: trial.score} for trial in trials],
                [*varied, name],
                best_high=metric.goal == "maximize",
            ),
        ),
        (
            "Trial by trial",
            f"{name}; the line is the best so far.",
            _course([(trial.place + 1, trial.score or 0.0) for trial in trials], name, metric.goal),
        ),
    ]
    shares = {key: share for key, share in result.importances.items() if key in varied}
    if shares:
        caption = f"Share of {name}'s variance over the trials that each parameter explains (functional ANOVA)."
        figures.append(("What matters", caption, _bars(shares)))
    return figures


def parallel_coordinates(rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, best_high: bool) -> str:
    """SVG: an axis for each name, a line for each row.

    Args:
        rows: values by name; numbers, words, switches or None.
        names: the axes, in order; the last one, a number, colours the lines.
        best_high: whether high values of the last axis are the better ones.
    """
    figure, axes = canvas("", "", height=3.8)
    places = {name: _axis([row.get(name) for row in rows], even=name != names[-1]) for name in names}
    for row in sorted(rows, key=lambda row: row[names[-1]], reverse=not best_high):
        heights = [places[name][0][repr(row.get(name))] for name in names]
        good = heights[-1] if best_high else 1 - heights[-1]
        axes.plot(range(len(names)), heights, color=SUM, alpha=0.15 + 0.8 * good**2, linewidth=1 + good)
    for number, name in enumerate(names):
        axes.axvline(number, color=INK, linewidth=0.8, alpha=0.6)
        for height, label in places[name][1]:
            axes.text(number + 0.02, height, label, color=INK, fontsize=7.5, va="center")
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.6)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return svg(figure, axes, legend=False)


def _axis(values: Sequence[Any], *, even: bool) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Where on an axis from 0 to 1 each value lies (by `repr`), and its ticks with their labels.

    Words, and a dozen numbers at most where `even`, are spaced evenly.
    """
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and (not even or len(set(numbers)) > 12):
        low, high = min(numbers), max(numbers)
        width = high - low or 1.0
        ticks = [(share / 4, f"{low + share / 4 * width:.4g}") for share in range(5)]
        return {repr(value): (value - low) / width for value in numbers}, ticks
    different = sorted(set(numbers)) if len(numbers) == len(values) else list({repr(v): v for v in values}.values())
    heights = [number / max(1, len(different) - 1) for number in range(len(different))]
    labels = [in_short(value) for value in different]
    places = {repr(value): height for value, height in zip(different, heights, strict=True)}
    return places, list(zip(heights, labels, strict=True))


def _course(found: Sequence[tuple[int, float]], name: str, goal: str) -> str:
    """SVG: trials by number and score, and the best so far."""
    figure, axes = canvas("trial", name.replace("_", " "))
    places, values = [place for place, _ in found], [score for _, score in found]
    choose = max if goal == "maximize" else min
    axes.scatter(places, values, s=18, color=SUM)
    axes.step(places, [choose(values[: n + 1]) for n in range(len(values))], where="post", color=INK, linewidth=1)
    return svg(figure, axes, legend=False)


def _bars(shares: Mapping[str, float]) -> str:
    figure, axes = canvas("share of variance (%)", "", height=0.9 + 0.35 * len(shares))
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh([name.replace("_", " ") for name in names], [100 * shares[name] for name in names], color=SUM)
    return svg(figure, axes, legend=False)
