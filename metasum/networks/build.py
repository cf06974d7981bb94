"""From settings to a network with its initial weights."""

from __future__ import annotations

import torch
from torch import nn

from metasum.config import NetworkConfig
from metasum.networks.layers import he_initialise


def build_network(config: NetworkConfig, *, in_channels: int, seed: int) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights, and no global random state moves.

    Args:
        config: architecture; `width` and `num_classes` must be set.
        in_channels: channels of the images.
        seed: of the initialisation.
    """
    if config.width is None or config.num_classes is None:
        raise ValueError("width and num_classes must be resolved before a network is built")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.network == "resnet":
            from metasum.networks.resnet import ResNet

            network: nn.Module = ResNet(
                in_channels=in_channels, num_classes=config.num_classes, width=config.width, norm=config.norm
            )
        else:
            from metasum.networks.vgg import VGG16

            network = VGG16(
                in_channels=in_channels,
                num_classes=config.num_classes,
                width=config.width,
                norm=config.norm,
                dropout=config.dropout,
            )
        if config.norm == "none":  # PyTorch's own draw shrinks the signal a little in every layer; a norm undoes that
            he_initialise(network)
    return network
