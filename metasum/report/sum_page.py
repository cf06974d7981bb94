"""The report of a sum of networks that never met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metasum.report.figures import Figures, confusion_matrix, layer_figures, line_curves
from metasum.report.page import write_page
from metasum.results.heads import heads_told
from metasum.results.strangers import SumResult
from metasum.results.strangers_tables import operators_table, opinions_table, runs_table, sum_table


def write_sum_report(folder: Path) -> Path:
    """Draws `report.html` of a sum from its result.json; raises CheckpointError where that is not there or damaged."""

    def context() -> dict[str, Any]:
        result = SumResult.read(folder / "result.json")
        return {
            "result": result,
            "accuracy": sum_table(result),
            "operators": operators_table(result),
            "opinions": opinions_table(result),
            "runs": runs_table(result),
            "figures": _sum_figures(result),
        }

    return write_page(folder, "sum.html.j2", context)


def _sum_figures(result: SumResult) -> Figures:
    figures: Figures = []
    for line in result.interpolation:
        curves = {f"on {name}": (line.alphas, values) for name, values in line.accuracy.items()}
        figures.append(
            (
                f"Along the line from {line.ends[0]} to {line.ends[1]}",
                "Statistics recalibrated on each dataset at each point, on at most 500 images"
                f"{heads_told(result.heads)}.",
                line_curves(curves, ends=line.ends, among=[f"on {name}" for name in result.accuracy.datasets]),
            )
        )
    for pair in result.geometry:
        layers = {"weights": pair.weights}
        if pair.differences:
            layers["differences from the initialisation"] = pair.differences
        figures += layer_figures(
            layers,
            f"{pair.first} and {pair.second}",
            angle="Cosine similarity, layer by layer.",
            length="Norm ratio, layer by layer.",
            ratio=f"{pair.first} / {pair.second}",
        )
    kept = result.accuracy.union.sum_own_statistics is not None
    whose = "each network's own" if kept else "the union's"
    after = f"after, with {whose} statistics ({result.operator}{heads_told(result.heads)})"
    for name, matrices in result.confusion.items():
        figures += [
            (f"What {name} is taken for, {when}", "Percent of each row.", confusion_matrix(matrix))
            for when, matrix in (("alone", matrices.alone), (after, matrices.sum))
            if matrix is not None
        ]
    return figures
