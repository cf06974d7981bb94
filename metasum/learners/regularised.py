"""What may make a network's sum with a stranger better: staying near the start, flat minima, keeping quiet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from metasum.config import Checked, option
from metasum.learners.trainable import Backward
from metasum.types import Batch, Parameters
from metasum.weights.functional import functional_call
from metasum.weights.parameters import buffers_of, parameters_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegularisationConfig(Checked):
    """What may carry over from one partner to another."""

    anchor: float = option(0.0, "λ: strength of the pull of both networks to their initialisation.", minimum=0)
    sharpness: float = option(
        0.0, "ρ: how far from its weights each network looks for a steep place; 0 for ordinary steps.", minimum=0
    )
    quiet_weight: float = option(
        0.0, "Weight of the loss that asks each network for no opinion on the other dataset's images.", minimum=0
    )


def distance(network: nn.Module, start: Parameters) -> Tensor:
    """‖θ - θ_0‖² over all parameters, a scalar; the gradient reaches `network`, not `start`.

    The pull to the initialisation of L2-SP (Li et al. 2018, arXiv:1802.01483, eq. 3).
    """
    own = parameters_of(network)
    return torch.stack([(own[name] - tensor.detach()).square().sum() for name, tensor in start.items()]).sum()


def sharpness_aware(
    groups: list[list[nn.Parameter]],
    radius: float,
    gradients: Callable[[], object],
    step: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Takes gradients where each network's loss is highest nearby (Foret et al. 2021, SAM, arXiv:2010.01412, eq. 2).

    Args:
        groups: the parameters of each network; each moves by `radius` along its own gradient, and back again.
        radius: ρ, a Euclidean length.
        gradients: adds the gradients at the weights as they are to `.grad`.
        step: adds those at the moved weights, and returns its terms.

    Returns:
        What `step` returned.
    """
    parameters = [parameter for group in groups for parameter in group]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    gradients()
    moves: dict[nn.Parameter, Tensor] = {}
    start = [parameter.detach().clone() for parameter in parameters]
    for group in groups:
        slopes = {p: p.grad for p in group if p.grad is not None}
        norm = torch.stack([slope.norm() for slope in slopes.values()]).norm().clamp(min=1e-12)
        moves |= {p: radius * slope / norm for p, slope in slopes.items()}
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    with torch.no_grad():
        for parameter, move in moves.items():
            parameter.add_(move)
    torch.clear_autocast_cache()  # autocast would go on with the weights that it has cast before
    terms = step()
    with torch.no_grad():
        for parameter, weights in zip(parameters, start, strict=True):
            parameter.copy_(weights)
    torch.clear_autocast_cache()
    return terms


def keep_quiet(network: nn.Module, batch: Batch, foreign: Batch, weight: float, backward: Backward) -> Tensor:
    """The gradient of q KL(uniform ‖ softmax f(θ; x)), x foreign images: Outlier Exposure (Hendrycks et al. 2019).

    Taken twice: once the foreign images are normalised by their own statistics, as where a sum is recalibrated on one
    dataset; once half a batch of either by those of both together, with CE on the own half (of weight 1, so that q > 0
    is never nearly nothing), as where it is deployed on their union.

    Args:
        network: in train mode; its running statistics stay as they are.
        batch: of its own dataset; `foreign`: of another one.
        weight: q.
        backward: sends each loss on its way.

    Returns:
        The first divergence, a scalar in nats per image, detached.
    """
    loudness = opinion(logits_aside(network, foreign.images))
    backward(weight * loudness)
    half, other = len(batch.images) // 2, len(foreign.images) // 2
    mixture = logits_aside(network, torch.cat([batch.images[:half], foreign.images[:other]]))
    backward(cross_entropy(mixture[:half], batch.labels[:half]) + weight * opinion(mixture[half:]))
    return loudness.detach()


def logits_aside(network: nn.Module, images: Tensor) -> Tensor:
    """Logits `[N, classes]`, normalised by these very images `[N, C, H, W]`; running statistics stay as they are."""
    buffers = {name: buffer.clone() for name, buffer in buffers_of(network).items()}
    logits: Tensor = functional_call(network, parameters_of(network), buffers, images, backend="torch")
    return logits


def opinion(logits: Tensor) -> Tensor:
    """KL(uniform ‖ softmax), mean over logits `[N, classes]`: a scalar in nats, 0 where no class is preferred."""
    return -log_softmax(logits, dim=1).mean() - math.log(logits.shape[1])
