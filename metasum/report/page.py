"""A run's report: one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasum.errors import CheckpointError
from metasum.files import write_text
from metasum.report.figures import accuracy_curves, layer_curves, loss_curves
from metasum.training.run_folder import RunFolder
from metasum.types import Parameters
from metasum.weights.geometry import LayerGeometry, layer_geometry

if TYPE_CHECKING:
    from jinja2 import Environment


def write_report(run: RunFolder) -> Path:
    """Draws `report.html` of a finished run from its files, and returns its path.

    Raises:
        CheckpointError: the run is not finished, or one of its files is missing or damaged.
    """
    config, result = run.read_json("config.json"), run.read_json("result.json")
    records = run.metrics()
    from jinja2 import UndefinedError

    try:
        page = (
            _environment()
            .get_template("run.html.j2")
            .render(
                result=result,
                data=config["data"],
                settings=_flat(config["settings"]),
                versions=config["versions"],
                initial_checksum=config["initial_checksum"],
                figures=_figures(run, result, records),
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise CheckpointError(f"{run.path} holds files of another version or program ({error!r}).") from error
    path = run.path / "report.html"
    write_text(path, page)
    return path


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metasum.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}\u00a0%"
    environment.filters["points"] = lambda share: f"{100 * share:+.2f}"
    return environment


def _flat(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by section; those outside any section come first, as "run"."""
    sections = {name: values for name, values in settings.items() if isinstance(values, dict)}
    return {"run": {name: value for name, value in settings.items() if name not in sections}, **sections}


def _figures(run: RunFolder, result: dict[str, Any], records: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(title, caption, SVG) in reading order; a run that only merges has no curves of its own."""
    figures = [] if "endpoints" in result else _curves(run, records)
    layers = _layers(RunFolder.open(Path(result.get("endpoints", run.path))))
    return [
        *figures,
        (
            "Angle between the two networks",
            "Cosine similarity of the layers' weights, and of what they are apart from the target's initialisation.",
            layer_curves(layers, quantity="cosine"),
        ),
        (
            "Length of the two networks",
            "Norm of the target's weights over the support's: at 1 neither drowns the other in the sum.",
            layer_curves(layers, quantity="norm_ratio"),
        ),
    ]


def _curves(run: RunFolder, records: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
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
        ("Loss", "Each term's mean between two log lines.", loss_curves(steps)),
    ]


def _layers(run: RunFolder) -> dict[str, list[LayerGeometry]]:
    initial, target, support = (run.weights(name) for name in ("initial", "target", "support"))

    def difference(weights: Parameters) -> Parameters:
        return {name: tensor - initial[name] for name, tensor in weights.items()}

    return {
        "weights": layer_geometry(target, support),
        "difference from the target's initialisation": layer_geometry(difference(target), difference(support)),
    }
