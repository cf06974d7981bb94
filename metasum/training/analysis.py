"""What a report shows beyond accuracies: the line between networks, confusions, images that the sum gets wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metasum.training.evaluation import FinalEvaluation, accuracy
from metasum.types import Sides, Task
from metasum.weights.parameters import parameters_of, with_parameters
from metasum.weights.statistics import recalibrate

POINTS = 11  # along the line, both ends included
LINE_BATCHES, LINE_IMAGES = 4, 1000  # of each dataset, for each point of the line
MISTAKES = 12


def analyse(final: FinalEvaluation, tasks: Sides[Task], names: Sides[str]) -> dict[str, Any]:
    """What analysis.json holds: "confusion", "mistakes" (of the target) and "interpolation".

    Args:
        final: the networks, measured.
        tasks: the datasets that they were measured on.
        names: of these.
    """
    pairs = zip(Sides._fields, final.confusion_before, final.confusion_after, strict=True)
    return {
        "confusion": {side: {"before": before.tolist(), "after": after.tolist()} for side, before, after in pairs},
        "mistakes": mistakes(final.alone.target, final.summed.target, tasks.target),
        "interpolation": interpolate(*final.alone, dict(zip(names, tasks, strict=True))),
    }


def interpolate(first: nn.Module, second: nn.Module, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Accuracy along α θ_first + (1 - α) θ_second, with statistics recalibrated on each dataset at each point.

    Returns:
        "alphas" from 0 to 1 and, under "accuracy", as many accuracies in [0, 1] for each task by its name, on at most
        1,000 held-out images.
    """
    alphas = [index / (POINTS - 1) for index in range(POINTS)]
    ours, theirs = parameters_of(first), parameters_of(second)
    images = {name: list(task.calibration(LINE_BATCHES)) for name, task in tasks.items()}
    curves: dict[str, list[float]] = {name: [] for name in tasks}
    for alpha in alphas:
        between = {name: torch.lerp(theirs[name].detach(), ours[name].detach(), alpha) for name in ours}
        network = with_parameters(first, between)
        for name, task in tasks.items():
            curves[name].append(accuracy(recalibrate(network, images[name]), task.evaluation(LINE_IMAGES)))
    return {"alphas": alphas, "accuracy": curves}


def mistakes(before: nn.Module, after: nn.Module, task: Task) -> list[dict[str, Any]]:
    """Held-out images that `after` gets wrong, those that `before` got right first.

    Returns:
        At most 12: "label", "before" and "after" (what each network took it for), "png" (base64).
    """
    found: list[tuple[bool, dict[str, Any]]] = []
    with torch.inference_mode():
        for images, labels in task.evaluation(LINE_IMAGES):
            guesses = before(images).argmax(1), after(images).argmax(1)
            for index in (guesses[1] != labels).nonzero().flatten().tolist():
                label, own, theirs = (int(values[index]) for values in (labels, *guesses))
                picture = {"label": label, "before": own, "after": theirs, "png": _png(images[index])}
                found.append((own != label, picture))
    return [picture for _, picture in sorted(found, key=lambda pair: pair[0])][:MISTAKES]


def _png(image: Tensor) -> str:
    """A normalised image `[C, H, W]`, stretched from its darkest to its brightest value, as a base64 PNG."""
    from PIL import Image

    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp(min=1e-6) * 255).to(torch.uint8).permute(1, 2, 0).squeeze(-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
