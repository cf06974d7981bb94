"""What lies on the straight line between two networks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metasum.errors import UsageError
from metasum.modules.given import check_alike, networks_of
from metasum.modules.measuring import Metric, measured
from metasum.results.modules import LineBetweenModules
from metasum.weights.batches import Batches, Forward, Together, device_of
from metasum.weights.calling import answer_and_labels
from metasum.weights.copies import copy_of
from metasum.weights.modes import in_eval_mode
from metasum.weights.parameters import buffers_of, find_norms_again, parameters_of
from metasum.weights.randomness import same_randomness
from metasum.weights.shared_parts import is_weight
from metasum.weights.statistics import normalisers, recalibrate_together


def line(
    first: nn.Module,
    second: nn.Module,
    data: Any,
    *,
    points: int = 11,
    images: Any = None,
    metric: Metric | None = None,
    forward: Forward | None = None,
) -> LineBetweenModules:
    """Loss and accuracy of (1 - α) θ_first + α θ_second, from the first network (α = 0) to the second (1).

    Batch norms: with `images`, running statistics are recomputed on them at each point, both ends alike; without, they
    lie on the line as well, which makes barriers look higher than they are (Jordan et al. 2023, arXiv:2211.08403).

    Args:
        first: a network; it and the second one are left as they are.
        second: of the same architecture.
        data: with labels, as `evaluate` takes it; it is read once for each point.
        points: how many, both ends included.
        images: a loader of training images of both, for networks with batch norm; labels are not looked at.
        metric: instead of accuracy and loss, as `evaluate` takes it.
        forward: (network, batch) to logits, where a network is not called as usual: see `metasum.weights.batches`.

    Example:
        >>> found = metasum.line(net_a, net_b, test_loader)
        >>> found.barrier                       # in nats
        1.25
        >>> found.figure().savefig("line.svg")

    Raises:
        UsageError: fewer than three points, or data that `evaluate` refuses.
        ArchitectureError: the networks differ; the first difference is named.
    """
    if points < 3:
        raise UsageError(f"a line has at least 3 points: both ends and one between them, not {points}.")
    first, second = networks_of([first, second])
    check_alike([first, second])
    device = device_of(first)
    batches = Batches(data, what="data", forward=forward, device=device)
    sources = [] if images is None else images.sources if isinstance(images, Together) else [images]
    calibration = [Batches(own, forward=forward, device=device) for own in sources]
    alphas = tuple(index / (points - 1) for index in range(points))
    found = []
    with same_randomness(device), in_eval_mode(first, second):
        for alpha in alphas:
            network = between(first, second, alpha)
            recalibrate_together([(network, own) for own in calibration], forward=forward)
            found.append(measured(partial(answer_and_labels, network, forward=forward), batches, metric))
    return LineBetweenModules(alphas, tuple(found), bool(calibration) if normalisers(first) else None)


def between(first: nn.Module, second: nn.Module, alpha: float) -> nn.Module:
    """A copy of the first network at (1 - α) θ_first + α θ_second, its statistics likewise; integers are the first's.

    At both ends it has the very numbers of these networks.
    """
    twin = copy_of(first)
    ours, theirs = ({**parameters_of(own), **buffers_of(own)} for own in (first, second))
    with torch.no_grad():
        for name, tensor in {**parameters_of(twin), **buffers_of(twin)}.items():
            if is_weight(tensor):
                tensor.copy_(_point(ours[name], theirs[name], alpha))
    if 0 < alpha < 1:
        find_norms_again(twin)
    return twin


def _point(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    if alpha in (0, 1):
        return second if alpha else first
    wide = first.dtype if first.dtype.itemsize >= 4 else torch.float32
    return torch.lerp(first.to(wide), second.to(wide), alpha)
