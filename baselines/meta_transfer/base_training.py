"""Base training: a task's own classifier, by some tens of gradient steps on fixed features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from metasum.config import Checked, option
from metasum.errors import ArchitectureError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseTrainingConfig(Checked):
    """How few-shot learners train on the images of one episode."""

    base_steps: int = option(50, "Gradient steps on an episode's images.", unit="steps", minimum=1)
    base_lr: float = option(0.0005, "Their size.", above=0)


BASE_CANDIDATES = {"base_steps": (50, 100), "base_lr": (0.0002, 0.0005, 0.002)}
"""What a search tries of them, from a pretrained network."""


def base_trained(
    classifier: nn.Linear, features: Tensor, labels: Tensor, steps: int, learning_rate: float
) -> tuple[Tensor, Tensor]:
    """θ' = θ - β∇_θ L(adaptation images; θ), some tens of times: the trained weight `[N, D]` and bias `[N]`.

    Their gradient reaches θ as if the steps were constants (first order), and does not reach the features.

    Args:
        classifier: θ; it is not changed.
        features: `[n, D]` of the adaptation images.
        labels: `[n]`.
        steps: how many.
        learning_rate: β.
    """
    fixed, start = features.detach(), (classifier.weight, classifier.bias)
    ends = descended(start, lambda own: cross_entropy(linear(fixed, *own), labels), steps, learning_rate)
    weight, bias = (own + (end.detach() - own).detach() for own, end in zip(start, ends, strict=True))
    return weight, bias


def descended(
    start: Iterable[Tensor], loss: Callable[[list[Tensor]], Tensor], steps: int, learning_rate: float
) -> list[Tensor]:
    """Where plain gradient steps lead from `start`: new tensors, no step of which the gradient reaches."""
    moving = [tensor.detach().clone().requires_grad_() for tensor in start]
    with torch.enable_grad():
        for _ in range(steps):
            slopes = torch.autograd.grad(loss(moving), moving)
            moving = [
                (tensor - learning_rate * slope).detach().requires_grad_()
                for tensor, slope in zip(moving, slopes, strict=True)
            ]
    return moving


def untrained(like: nn.Module, outputs: int) -> nn.Linear:
    """A linear layer with the inputs of `like`, all zero: equal answers to everything.

    Args:
        like: a linear layer.
        outputs: of the new one.

    Raises:
        ArchitectureError: `like` is another kind of layer.
    """
    if not isinstance(like, nn.Linear):
        raise ArchitectureError(f"a network whose last layer is linear is needed, not {type(like).__name__}.")
    layer = nn.Linear(like.in_features, outputs).to(like.weight)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
