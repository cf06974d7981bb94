"""The small convolutional network of few-shot learning."""

from __future__ import annotations

import torch
from torch import nn

from metasum.networks.layers import he_initialise

BLOCKS = 5  # each halves the image: 32x32 becomes 1x1


def convnet(*, ways: int, in_channels: int = 1, filters: int = 64, hidden: int = 64) -> nn.Sequential:
    """Five blocks of 3x3 convolution, ReLU and 2x2 max-pooling, then two linear layers: images to `[N, ways]`.

    The base learner of Munkhdalai & Yu 2017 (arXiv:1703.00837), for images `[N, in_channels, 32, 32]`. He's
    initialisation, drawn from the global random state.
    """
    layers: list[nn.Module] = []
    for number in range(BLOCKS):
        layers += [
            nn.Conv2d(filters if number else in_channels, filters, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(filters, hidden), nn.ReLU())
    he_initialise(trunk)
    return trunk.append(last_layer(hidden, ways))


def last_layer(inputs: int, ways: int) -> nn.Linear:
    """An untrained linear layer with small weights: pooling makes features large, answers should start near even."""
    layer = nn.Linear(inputs, ways)
    he_initialise(layer)
    with torch.no_grad():
        layer.weight.mul_(0.1)
    return layer
