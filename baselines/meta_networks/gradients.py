"""What Meta Networks' meta learners are given: each example's own gradient, in two numbers a coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

K = 7


def preprocess(gradients: Tensor) -> Tensor:
    """Log size and sign of each coordinate, of whatever magnitude: `[..., 2]`, all within -1 and 1 or little above.

    [log|g| / k, sign g] where |g| ≥ e^-k, else [-1, e^k g], k = 7 (Andrychowicz et al. 2016, arXiv:1606.04474, appendix
    A, as Munkhdalai & Yu 2017 take it).
    """
    return from_scalar(as_scalar(gradients))


def as_scalar(gradients: Tensor) -> Tensor:
    """Each coordinate on one continuous scale: e^k g where that is within -1 and 1, else (2 + log|g| / k) sign g."""
    scaled = math.exp(K) * gradients
    large = scaled.abs() >= 1
    return torch.where(large, (2 + gradients.abs().clamp(min=math.exp(-K)).log() / K) * scaled.sign(), scaled)


def from_scalar(scale: Tensor) -> Tensor:
    """The two numbers `[..., 2]` of a place on that scale."""
    return torch.stack([scale.abs().clamp(min=1) - 2, scale.clamp(-1, 1)], dim=-1)


Loss = Callable[[Tensor, Tensor], Tensor]
"""From an example's outputs `[n, ...]` and labels `[n]` to a scalar."""


def example_gradients(
    network: nn.Module,
    names: Mapping[str, Tensor] | list[str],
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss = cross_entropy,
) -> dict[str, Tensor]:
    """Each example's gradient, constants: `[M, *shape]` by name, for the parameters called `names`.

    Args:
        network: images to outputs.
        names: of parameters.
        images: `[M, n, C, H, W]`: examples of n images, one or (for a contrastive loss) a pair.
        labels: `[M, n]`.
        loss: of an example.
    """
    parameters = {name: tensor.detach() for name, tensor in network.named_parameters()}
    asked = {name: parameters.pop(name) for name in names}
    buffers = dict(network.named_buffers())

    def of_example(own: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return loss(functional_call(network, {**parameters, **buffers, **own}, (images,)), labels)

    with torch.autocast(images.device.type, enabled=False):  # vmap's convolutions take no mixture of precisions
        found: dict[str, Tensor] = vmap(grad(of_example), in_dims=(None, 0, 0))(asked, images, labels)
    return {name: gradient.detach() for name, gradient in found.items()}
