"""Reports over several runs: a comparison, an experiment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metasum.report.figures import Figures, accuracy_dots, layer_figures, line_curves, sum_curves
from metasum.report.page import described, write_page
from metasum.results.accuracy import SIDES
from metasum.results.comparison import ComparisonResult
from metasum.results.comparison_tables import costs_table, side_table
from metasum.results.experiment import ExperimentResult
from metasum.results.experiment_tables import opinions_table, target_table, union_table
from metasum.results.heads import heads_told
from metasum.results.surroundings import tuning_table

LINE = "First seed, statistics recalibrated at each point, on at most 500 images"


def write_comparison_report(folder: Path) -> Path:
    """Draws `report.html` of a comparison from its results.json; raises CheckpointError likewise."""

    def context() -> dict[str, Any]:
        result = ComparisonResult.read(folder / "results.json")
        figures = [
            (
                f"{result.dataset(side)} ({side})",
                "Mean and standard deviation over the seeds. Bar: before. Dot: after.",
                accuracy_dots(
                    {row.learner: vars(getattr(row, side)) for row in result.summary},
                    series={"before": "before", "after": "after"},
                ),
            )
            for side in SIDES
            if result.summary
        ]
        figures += _comparison_curves(result)
        return {
            "result": result,
            "figures": figures,
            "sides": {side: side_table(result, side) for side in SIDES},
            "costs": costs_table(result),
            "tuning": {name: (tuned, tuning_table(tuned)) for name, tuned in result.tuning.items()},
            "reports": _run_reports(folder, [folder.parent]),
            **described(result),
        }

    return write_page(folder, "comparison.html.j2", context)


def write_experiment_report(folder: Path) -> Path:
    """Draws `report.html` of an experiment from its results.json; raises CheckpointError likewise."""

    def context() -> dict[str, Any]:
        result = ExperimentResult.read(folder / "results.json")
        series = {"before": "before", "after": f"+ {result.support}", "stranger": "+ stranger"}
        figures = [
            (
                target,
                "Mean and standard deviation over the seeds. Bar: before. Dot and square: after each sum.",
                accuracy_dots(
                    {row.learner: vars(row.accuracy[target]) for row in result.summary},
                    series=series,
                ),
            )
            for target in result.targets
            if result.summary
        ]
        first, second = result.targets[:2]
        for target in (first, second) if result.lines else ():
            lines = {name: (line.alphas, line.accuracy[target]) for name, line in result.lines.items()}
            caption = f"{LINE}{heads_told(result.heads)}."
            title = f"{target}, along the line between strangers"
            figures.append((title, caption, line_curves(lines, ends=(second, first))))
        pairs = [folder.parents[1] / f"{target}+{result.support}" for target in result.targets]
        return {
            "result": result,
            "figures": figures,
            "tables": {target: target_table(result, target) for target in result.targets},
            "union": union_table(result),
            "opinions": opinions_table(result),
            "tuning": {
                where: {name: (tuned, tuning_table(tuned)) for name, tuned in found.items()}
                for where, found in result.tuning.items()
            },
            "reports": _run_reports(folder, pairs),
            **described(result),
        }

    return write_page(folder, "experiment.html.j2", context)


def _run_reports(folder: Path, pairs: Sequence[Path]) -> list[tuple[str, str]]:
    """(name, path as seen from `folder`) of every run's report in the folders of these pairs."""
    found = [page for pair in pairs for page in sorted(pair.glob("*-seed*/report.html"))]
    return [
        (f"{page.parents[1].name}/{page.parent.name}", quote(os.path.relpath(page, folder).replace(os.sep, "/")))
        for page in found
    ]


def _comparison_curves(result: ComparisonResult) -> Figures:
    """Of the first seed's runs that trained: the line between target and support, and the angle layer by layer."""
    if not result.first_seed:
        return []
    layers = {name: found.layers for name, found in result.first_seed.items()}
    ends = ("the support", "the target")
    caption = f"{LINE}{heads_told(result.heads)}."
    figures = [
        (
            f"{dataset}, along the line between the two networks",
            caption,
            line_curves(
                {
                    name: (found.interpolation.alphas, found.interpolation.accuracy[dataset])
                    for name, found in result.first_seed.items()
                },
                ends=ends,
            ),
        )
        for dataset in (result.target, result.support)
    ]
    curves = {name: (found.steps, found.after) for name, found in result.first_seed.items()}
    way = f"{result.target} in the sum, over training", "First seed, evaluations on the way.", sum_curves(curves)
    return [
        *([way] if any(steps for steps, _ in curves.values()) else []),
        *figures,
        *layer_figures(
            layers,
            "the two networks",
            angle="Cosine similarity of the layers' weights, first seed.",
            length="Norm of the target's weights over the support's, first seed.",
            ratio="target / support",
        ),
    ]
