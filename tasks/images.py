"""From stored pixels to what a network sees, a batch at a time, on the batch's device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from metasum.tasks.arrays import SIZE

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SHIFT = 4  # pixels


def moments(images: Tensor, *, in_channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel the network sees, over a whole split, in units of 0 to 1.

    Luma's are derived from the colours' covariance; padding does not count.

    Args:
        images: `[N, C, H, W]`, uint8.
        in_channels: 1 or 3.

    Returns:
        Two float tensors `[in_channels]`; the standard deviation is at least 1/255.
    """
    channels = images.shape[1]
    mean, second = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, channels, dtype=torch.float64)
    for chunk in torch.split(images, 4096):
        pixels = chunk.transpose(0, 1).reshape(channels, -1).double() / 255
        mean, second = mean + pixels.sum(1), second + pixels @ pixels.T
    count = images.numel() / channels
    mean, covariance = mean / count, second / count - torch.outer(mean, mean) / count**2
    weights = _mixing(channels, in_channels).double()
    deviation = (weights @ covariance @ weights.T).diagonal().clamp(min=0).sqrt()
    return (weights @ mean).float(), deviation.clamp(min=1 / 255).float()


def _mixing(channels: int, in_channels: int) -> Tensor:
    """`[in_channels, channels]`: how the channels seen are made of those stored."""
    if channels == 3 and in_channels == 1:
        return torch.tensor([LUMA])
    return torch.ones(in_channels, 1) if channels == 1 else torch.eye(3)


def prepare(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Pads to 32x32 with black, mixes channels (luma, or grey repeated) and normalises.

    Args:
        images: `[N, C, H, W]`, uint8, H and W at most 32.
        mean: `[in_channels]`; `deviation` likewise.

    Returns:
        `[N, in_channels, 32, 32]`, float.
    """
    height, width = images.shape[2:]
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    padded = pad(images, (left, SIZE - width - left, top, SIZE - height - top)).float() / 255
    in_channels, channels = len(mean), images.shape[1]
    if channels != in_channels:
        padded = torch.einsum("oc,nchw->nohw", _mixing(channels, in_channels).to(padded.device), padded)
    return (padded - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Moves each image up to 4 pixels either way ("shift"), and mirrors half of them ("shift-flip").

    What moves in at the rim repeats the rim. Draws come from `generator`, on the CPU, so that every device trains on
    the same images.

    Args:
        images: `[N, C, 32, 32]`, float.
        kind: "none", "shift" or "shift-flip".
        generator: a CPU generator.
    """
    if kind == "none":
        return images
    count, device = len(images), images.device
    offsets = torch.randint(-SHIFT, SHIFT + 1, (2, count, 1), generator=generator).to(device)
    line = torch.arange(SIZE, device=device)
    rows, columns = ((line + offset).clamp(0, SIZE - 1) for offset in offsets)
    if kind == "shift-flip":
        mirrored = torch.rand(count, 1, generator=generator).to(device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count, device=device).view(-1, 1, 1)
    return images.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()
