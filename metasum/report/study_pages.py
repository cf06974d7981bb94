"""Reports over several runs: a sum, a comparison, an experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metasum.files import read_json
from metasum.report.figures import accuracy_dots, confusion_matrix, layer_curves, line_curves, sum_curves
from metasum.report.page import Figures, sections_of, write_page
from metasum.weights.geometry import LayerGeometry


def write_sum_report(folder: Path) -> Path:
    """Draws `report.html` of a sum from its result.json; raises CheckpointError where that is not there or damaged."""

    def context() -> dict[str, Any]:
        result = read_json(folder / "result.json")
        return {"result": result, "figures": _sum_figures(result)}

    return write_page(folder, "sum.html.j2", context)


def write_comparison_report(folder: Path) -> Path:
    """Draws `report.html` of a comparison from its results.json; raises CheckpointError likewise."""

    def context() -> dict[str, Any]:
        result = read_json(folder / "results.json")
        figures = [
            (
                f"{result[side]} ({side})",
                "Mean and standard deviation over the seeds. Bar: before. Dot: after.",
                accuracy_dots(
                    {row["learner"]: row[side] for row in result["summary"]},
                    series={"before": "before", "after": "after"},
                ),
            )
            for side in ("target", "support")
            if result["summary"]
        ]
        figures += _comparison_curves(result)
        return {
            "result": result,
            "figures": figures,
            "settings": sections_of(result["settings"]),
            "reports": _run_reports(folder, [folder.parent]),
        }

    return write_page(folder, "comparison.html.j2", context)


def write_experiment_report(folder: Path) -> Path:
    """Draws `report.html` of an experiment from its results.json; raises CheckpointError likewise."""

    def context() -> dict[str, Any]:
        result = read_json(folder / "results.json")
        series = {"before": "before", "after": f"+ {result['support']}", "stranger": "+ stranger"}
        figures = [
            (
                target,
                "Mean and standard deviation over the seeds. Bar: before. Dots: after each sum.",
                accuracy_dots(
                    {row["learner"]: row["accuracy"][target] for row in result["summary"]},
                    series=series,
                ),
            )
            for target in result["targets"]
            if result["summary"]
        ]
        first, second = result["targets"][:2]
        for target in (first, second) if result["lines"] else ():
            lines = {name: (line["alphas"], line["accuracy"][target]) for name, line in result["lines"].items()}
            caption = "First seed, statistics recalibrated at each point, on at most 1,000 images."
            title = f"{target}, along the line between strangers"
            figures.append((title, caption, line_curves(lines, ends=(second, first))))
        pairs = [folder.parents[1] / f"{target}+{result['support']}" for target in result["targets"]]
        return {
            "result": result,
            "figures": figures,
            "settings": sections_of(result["settings"]),
            "reports": _run_reports(folder, pairs),
        }

    return write_page(folder, "experiment.html.j2", context)


def _run_reports(folder: Path, pairs: Sequence[Path]) -> list[tuple[str, str]]:
    """(name, path as seen from `folder`) of every run's report in the folders of these pairs."""
    found = [page for pair in pairs for page in sorted(pair.glob("*-seed*/report.html"))]
    return [
        (f"{page.parents[1].name}/{page.parent.name}", quote(os.path.relpath(page, folder).replace(os.sep, "/")))
        for page in found
    ]


def _sum_figures(result: Mapping[str, Any]) -> Figures:
    figures: Figures = []
    for line in result["interpolation"]:
        curves = {f"on {name}": (line["alphas"], values) for name, values in line["accuracy"].items()}
        figures.append(
            (
                f"Along the line from {line['from']} to {line['to']}",
                "Statistics recalibrated on each dataset at each point, on at most 1,000 images.",
                line_curves(curves, ends=(line["from"], line["to"])),
            )
        )
    for pair in result["geometry"]:
        layers = {
            label: [LayerGeometry(**layer) for layer in pair[key]]
            for key, label in (("weights", "weights"), ("differences", "differences from the initialisation"))
            if pair[key]
        }
        names = f"{pair['first']} and {pair['second']}"
        ratio = f"{pair['first']} / {pair['second']}"
        figures += [
            (
                f"Angle between {names}",
                "Cosine similarity, layer by layer.",
                layer_curves(layers, quantity="cosine", ratio=""),
            ),
            (
                f"Length of {names}",
                "Norm ratio, layer by layer.",
                layer_curves(layers, quantity="norm_ratio", ratio=ratio),
            ),
        ]
    for name, matrices in result["confusion"].items():
        when = {"alone": "alone", "sum": f"after, with the union's statistics ({result['operator']})"}
        figures += [
            (f"What {name} is taken for, {when[key]}", "Percent of each row.", confusion_matrix(matrix))
            for key, matrix in matrices.items()
            if matrix is not None
        ]
    return figures


def _comparison_curves(result: Mapping[str, Any]) -> Figures:
    """Of the first seed's runs that trained: the line between target and support, and the angle layer by layer."""
    lines = {name: found["interpolation"] for name, found in result["first_seed"].items()}
    layers = {
        name: [LayerGeometry(**layer) for layer in found["layers"]] for name, found in result["first_seed"].items()
    }
    if not lines:
        return []
    ends = ("the support", "the target")
    caption = "First seed, statistics recalibrated at each point, on at most 1,000 images."
    figures = [
        (
            f"{result[side]}, along the line between the two networks",
            caption,
            line_curves({n: (line["alphas"], line["accuracy"][result[side]]) for n, line in lines.items()}, ends=ends),
        )
        for side in ("target", "support")
    ]
    curves = {name: (found["steps"], found["after"]) for name, found in result["first_seed"].items()}
    return [
        (f"{result['target']} in the sum, over training", "First seed, evaluations on the way.", sum_curves(curves)),
        *figures,
        (
            "Angle between the two networks",
            "Cosine similarity of the layers' weights, first seed.",
            layer_curves(layers, quantity="cosine", ratio=""),
        ),
        (
            "Length of the two networks",
            "Norm of the target's weights over the support's, first seed.",
            layer_curves(layers, quantity="norm_ratio", ratio="target / support"),
        ),
    ]
