"""A run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metasum.errors import CheckpointError
from metasum.report.figures import Figures, accuracy_curves, confusion_matrix, layer_figures, line_curves, loss_curves
from metasum.report.page import described, write_page
from metasum.results.heads import heads_told
from metasum.results.meta import MetaResult
from metasum.results.meta import accuracy_table as meta_table
from metasum.results.pictures import Analysis, LayerGeometry
from metasum.results.run import RunResult
from metasum.results.run import accuracy_table as run_table
from metasum.results.surroundings import Description
from metasum.training.run_folder import RunFolder
from metasum.types import Parameters
from metasum.weights.geometry import layer_geometry


def write_report(run: RunFolder) -> Path:
    """Draws `report.html` of a finished run from its files, and returns its path.

    Raises:
        CheckpointError: the run is not finished, or one of its files is missing or damaged.
    """

    def context() -> dict[str, Any]:
        result = run.result(RunResult)
        analysis = Analysis.of(run.path) if (run.path / "analysis.json").is_file() else None
        figures = [] if result.endpoints is not None else _curves(run)
        figures += _layer_figures(RunFolder.open(run.networks_folder(result)))
        return {
            "result": result,
            "accuracy": run_table(result),
            "mistakes": None if analysis is None else analysis.mistakes,
            **_described(run),
            "figures": figures + (_analysis_figures(result, analysis) if analysis else []),
        }

    return write_page(run.path, "run.html.j2", context)


def write_meta_report(run: RunFolder) -> Path:
    """Draws `report.html` of finished meta-training, and returns its path; raises as `write_report` does."""

    def context() -> dict[str, Any]:
        result, description = run.result(MetaResult), Description.of(run.path)
        return {
            "result": result,
            "meta": description.own,
            "accuracy": meta_table(result, description.own["meta_operator"]),
            "figures": _curves(run),
            **_described(run),
        }

    return write_page(run.path, "meta.html.j2", context)


def _described(run: RunFolder) -> dict[str, Any]:
    description = Description.of(run.path)
    return described(description, initialisation=f"checksum {description.initial_checksum}")


def _curves(run: RunFolder) -> Figures:
    """What happened in training; a run that only merges has no such curves of its own."""
    records = run.metrics()
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    if not steps or not evaluations:
        raise CheckpointError(f"{run.path / 'metrics.jsonl'} is missing or lacks its lines.")
    return [
        (
            "Accuracy",
            "Dashed: a network alone. Solid: the summed network, on the same images.",
            accuracy_curves(evaluations),
        ),
        ("Loss", "Each term's mean between two log lines; below 0.0001 drawn there.", loss_curves(steps)),
    ]


def _layer_figures(run: RunFolder) -> Figures:
    initial, target, support = (run.weights(name) for name in ("initial", "target", "support"))

    def difference(weights: Parameters) -> Parameters:
        return {name: tensor - initial[name] for name, tensor in weights.items()}

    layers: dict[str, list[LayerGeometry]] = {
        "weights": layer_geometry(target, support),
        "difference from the target's initialisation": layer_geometry(difference(target), difference(support)),
    }
    return layer_figures(
        layers,
        "the two networks",
        angle="Cosine similarity of the layers' weights, and of what they are apart from the target's initialisation.",
        length="Norm of the target's weights over the support's: at 1 neither drowns the other in the sum.",
        ratio="target / support",
    )


def _analysis_figures(result: RunResult, analysis: Analysis) -> Figures:
    line, confusion = analysis.interpolation, analysis.confusion["target"]
    curves = {f"on {name}": (line.alphas, values) for name, values in line.accuracy.items()}
    return [
        (
            "Along the line between the two networks",
            "α θ_target + (1 - α) θ_support, statistics recalibrated at each point, on at most 500 images"
            f"{heads_told(result.heads)}.",
            line_curves(curves, ends=("the support", "the target")),
        ),
        (
            f"What {result.target} is taken for, before",
            "The target network alone. Rows are classes; numbers are percent of the row.",
            confusion_matrix(confusion.before),
        ),
        (
            f"What {result.target} is taken for, after",
            "The summed network on the same images.",
            confusion_matrix(confusion.after),
        ),
    ]
