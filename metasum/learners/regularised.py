"""What may make a network's sum with a stranger better: staying near the start, and flat minima."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metasum.types import Parameters
from metasum.weights.parameters import parameters_of


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
    _forget(parameters)
    gradients()
    moves: dict[nn.Parameter, Tensor] = {}
    for group in groups:
        slopes = {p: p.grad for p in group if p.grad is not None}
        norm = torch.stack([slope.norm() for slope in slopes.values()]).norm().clamp(min=1e-12)
        moves |= {p: radius * slope / norm for p, slope in slopes.items()}
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    with torch.no_grad():
        for parameter, move in moves.items():
            parameter.add_(move)
    terms = step()
    with torch.no_grad():
        for parameter, move in moves.items():
            parameter.sub_(move)
    return terms


def _forget(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
