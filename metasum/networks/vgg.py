"""VGG16 less its last block, for 32x32 images (Simonyan & Zisserman 2014, arXiv:1409.1556, configuration D)."""

from __future__ import annotations

from torch import Tensor, nn

from metasum.errors import UsageError
from metasum.networks.layers import normalisation, scaled

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
HIDDEN = 4096


class VGG16(nn.Module):
    """Four blocks of 3x3 convolutions, each block halving the image, then two hidden layers.

    Args:
        in_channels: channels of the images.
        num_classes: logits.
        width: factor on every channel count and hidden size; 1.0 has 32,854,474 parameters.
        norm: "batch", "group" or "none", after each convolution.
        dropout: share of each hidden layer's outputs dropped in training.
        image_size: height and width of the images; of others than 32, the last block's output is averaged to 2x2, so
            that the weights are the same for all sizes.

    Raises:
        UsageError: the images are smaller than 16x16: four times halved, nothing would be left.
    """

    plain_forward = True  # calls its children in turn: see metasum.weights.structure.is_plain

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 10,
        width: float = 1.0,
        norm: str = "batch",
        dropout: float = 0.25,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        if image_size < 2 ** len(BLOCKS):
            raise UsageError(f"network vgg16 takes images of 16x16 or more, not --image-size {image_size}.")
        channels = in_channels
        for number, sizes in enumerate(BLOCKS, start=1):
            layers: list[nn.Module] = []
            for size in sizes:
                out = scaled(size, width)
                layers += [nn.Conv2d(channels, out, 3, padding=1), *normalisation(norm, out), nn.ReLU(inplace=True)]
                channels = out
            self.add_module(f"block_{number}", nn.Sequential(*layers, nn.MaxPool2d(2, 2)))
        if image_size != 32:
            self.pool = nn.AdaptiveAvgPool2d(2)
        hidden = scaled(HIDDEN, width)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 2 * 2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, in_channels, image_size, image_size]` to logits `[N, num_classes]`."""
        for layer in self.children():
            images = layer(images)
        return images
