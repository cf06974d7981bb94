"""What a report shows beyond accuracies: the line between networks, confusions, images that the sum gets wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasum.networks.cutting import in_blocks
from metasum.networks.heads import head_of, with_trunk
from metasum.results.pictures import Analysis, Confusions, Line, Matrix, Mistake
from metasum.training.confusion import accuracy
from metasum.training.evaluation import FinalEvaluation
from metasum.types import Sides, Task
from metasum.weights.guesses import guesses
from metasum.weights.parameters import parameters_of
from metasum.weights.statistics import recalibrate

POINTS = 5  # along the line, both ends included
LINE_BATCHES, LINE_IMAGES = 1, 500  # of each dataset, for each point of the line
MISTAKES = 12


def analyse(final: FinalEvaluation, tasks: Sides[Task], names: Sides[str]) -> Analysis:
    """What analysis.json holds.

    Args:
        final: the networks, measured.
        tasks: the datasets that they were measured on.
        names: of these.
    """
    heads = dict(zip(names, final.alone, strict=True)) if final.own_heads else None
    pairs = zip(Sides._fields, final.confusion_before, final.confusion_after, strict=True)
    return Analysis(
        confusion={side: Confusions(as_rows(before), as_rows(after)) for side, before, after in pairs},
        mistakes=mistakes(final.measured_alone.target, final.summed.target, tasks.target),
        interpolation=interpolate(
            final.alone.target, final.alone.support, dict(zip(names, tasks, strict=True)), heads=heads
        ),
    )


def as_rows(confusion: Tensor) -> Matrix:
    """A confusion matrix `[classes, classes]` in plain numbers."""
    return tuple(tuple(row) for row in confusion.tolist())


def interpolate(
    first: nn.Module, second: nn.Module, tasks: Mapping[str, Task], *, heads: Mapping[str, nn.Module] | None = None
) -> Line:
    """Accuracy along α θ_first + (1 - α) θ_second, with statistics recalibrated on each dataset at each point.

    It is measured on at most 500 held-out images of each task, which goes by its name. With `heads`, a network for
    each task, only the rest lies between the two, and each task is measured with its own network's head.
    """
    alphas = [index / (POINTS - 1) for index in range(POINTS)]
    images = {name: list(task.calibration(LINE_BATCHES)) for name, task in tasks.items()}
    apart = frozenset() if heads is None else head_of(first, next(iter(images.values()))[0][:2])
    ours, theirs = ({n: t for n, t in parameters_of(own).items() if n not in apart} for own in (first, second))
    curves: dict[str, list[float]] = {name: [] for name in tasks}
    for alpha in alphas:
        between = {name: torch.lerp(theirs[name].detach(), ours[name].detach(), alpha) for name in ours}
        network = in_blocks(with_trunk(first, between))
        for name, task in tasks.items():
            own = network if heads is None else in_blocks(with_trunk(heads[name], between))
            curves[name].append(accuracy(recalibrate(own, images[name]), task.evaluation(LINE_IMAGES)))
    return Line(tuple(alphas), {name: tuple(curve) for name, curve in curves.items()})


def mistakes(before: nn.Module, after: nn.Module, task: Task) -> tuple[Mistake, ...]:
    """At most 12 held-out images that `after` gets wrong, those that `before` got right first."""
    found: list[tuple[bool, Mistake]] = []
    with torch.inference_mode():
        for images, labels in task.evaluation(LINE_IMAGES):
            taken = guesses(before(images)), guesses(after(images))
            for index in (taken[1] != labels).nonzero().flatten().tolist():
                label, own, theirs = (int(values[index]) for values in (labels, *taken))
                found.append((own != label, Mistake(label, own, theirs, _png(images[index]))))
    return tuple(mistake for _, mistake in sorted(found, key=lambda pair: pair[0]))[:MISTAKES]


def _png(image: Tensor) -> str:
    """A normalised image `[C, H, W]`, stretched from its darkest to its brightest value, as a base64 PNG.

    Where it has neither 1 nor 3 channels, their mean is shown.
    """
    from PIL import Image

    image = image if len(image) in (1, 3) else image.mean(0, keepdim=True)
    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp(min=1e-6) * 255).to(torch.uint8).permute(1, 2, 0).squeeze(-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
