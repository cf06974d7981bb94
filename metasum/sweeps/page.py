"""The report of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metasum.files import read_json
from metasum.report.canvas import INK, SUM, canvas, svg
from metasum.report.page import Figures, write_page
from metasum.spread import in_short

BEST = 10


def write_sweep_report(folder: Path) -> Path:
    """Draws `report.html` beside results.json, and returns its path.

    Raises:
        CheckpointError: the file is missing or damaged.
    """

    def context() -> dict[str, Any]:
        result = read_json(folder / "results.json")
        best = best_trials(result)
        varied = _varied(result)
        return {
            "result": result,
            "best": best,
            "varied": varied,
            "reports": {row["place"]: _report(folder, row) for row in best},
            "states": {state: sum(r["state"] == state for r in result["trials"]) for state in STATES},
            "figures": _figures(result, varied),
        }

    return write_page(folder, "sweep.html.j2", context)


def best_trials(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best finished trials, at most ten; all of a sweep without a metric."""
    by_place = {row["place"]: row for row in result["trials"]}
    return [by_place[place] for place in result["best"][:BEST]] or _finished(result)


STATES = ("complete", "pruned", "fail", "running")


def _finished(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["trials"] if row["state"] == "complete"]


def _varied(result: Mapping[str, Any]) -> list[str]:
    """Parameters that are not the same in all trials."""
    names = dict.fromkeys(name for row in result["trials"] for name in row["values"])
    return [name for name in names if len({repr(row["values"].get(name)) for row in result["trials"]}) > 1]


def _report(folder: Path, row: Mapping[str, Any]) -> str | None:
    """The run's report as seen from the sweep's folder, where it lies below it."""
    path = Path(row["run"] or "") / "report.html"
    try:
        inside = path.resolve().relative_to(folder.resolve())
    except ValueError:
        return None
    return quote(inside.as_posix()) if path.is_file() else None


def _figures(result: Mapping[str, Any], varied: Sequence[str]) -> Figures:
    rows, metric = _finished(result), result["metric"]
    if metric is None or not rows or not varied:
        return []
    name = metric["name"]
    figures = [
        (
            "Parallel coordinates",
            f"A line for each finished trial, from its parameters to {name}; dark lines are the better ones.",
            parallel_coordinates(
                [row["values"] | {name: row[name]} for row in rows],
                [*varied, name],
                best_high=metric["goal"] == "maximize",
            ),
        ),
        ("Trial by trial", f"{name}; the line is the best so far.", _course(rows, name, metric["goal"])),
    ]
    shares = {key: share for key, share in result["importances"].items() if key in varied}
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


def _course(rows: Sequence[Mapping[str, Any]], name: str, goal: str) -> str:
    figure, axes = canvas("trial", name.replace("_", " "))
    places, values = [row["place"] + 1 for row in rows], [row[name] for row in rows]
    choose = max if goal == "maximize" else min
    axes.scatter(places, values, s=18, color=SUM)
    axes.step(places, [choose(values[: n + 1]) for n in range(len(values))], where="post", color=INK, linewidth=1)
    return svg(figure, axes, legend=False)


def _bars(shares: Mapping[str, float]) -> str:
    figure, axes = canvas("share of variance (%)", "", height=0.9 + 0.35 * len(shares))
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh([name.replace("_", " ") for name in names], [100 * shares[name] for name in names], color=SUM)
    return svg(figure, axes, legend=False)
