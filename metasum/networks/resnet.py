"""A small residual network of torchvision's blocks, for 32x32 images (He et al. 2015, arXiv:1512.03385, 4.2)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from metasum.networks.layers import normalisation, scaled

STAGES = (16, 32, 64)
BLOCKS_PER_STAGE = 2


class ResNet(nn.Module):
    """A stem, three stages of two residual blocks, average pooling and one linear layer.

    Args:
        in_channels: channels of the images.
        num_classes: logits.
        width: factor on every channel count.
        norm: "batch", "group" or "none".
    """

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10, width: float = 1.0, norm: str = "batch") -> None:
        super().__init__()
        channels = scaled(STAGES[0], width)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            *normalisation(norm, channels),
            nn.ReLU(inplace=True),
        )
        norm_layer = partial(_norm_layer, norm)
        for number, size in enumerate(STAGES, start=1):
            blocks: list[nn.Module] = []
            for index in range(BLOCKS_PER_STAGE):
                out, stride = scaled(size, width), 2 if number > 1 and index == 0 else 1
                shortcut = None
                if stride != 1 or channels != out:
                    shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), norm_layer(out))
                blocks.append(BasicBlock(channels, out, stride, shortcut, norm_layer=norm_layer))
                channels = out
            self.add_module(f"stage_{number}", nn.Sequential(*blocks))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, in_channels, H, W]` of any size to logits `[N, num_classes]`."""
        for layer in self.children():
            images = layer(images)
        return images


def _norm_layer(norm: str, channels: int) -> nn.Module:
    return nn.Sequential(*normalisation(norm, channels)) if norm != "batch" else nn.BatchNorm2d(channels)
