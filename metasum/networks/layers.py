"""What the architectures share."""

from __future__ import annotations

from torch import nn


def scaled(size: int, width: float) -> int:
    """`size` times `width`, at least 1."""
    return max(1, round(size * width))


def normalisation(norm: str, channels: int) -> list[nn.Module]:
    """The layers that follow a convolution: one, or none. Groups are of 16 channels where that divides, else of all."""
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    if norm == "group":
        return [nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)]
    return []


def he_initialise(network: nn.Module) -> None:
    """Draws convolution and linear weights as He et al. 2015 (arXiv:1502.01852) do for ReLU; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
