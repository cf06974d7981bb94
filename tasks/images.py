"""From stored pixels to what a network sees, a batch at a time, on the batch's device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from metasum.errors import DatasetError
from metasum.tasks.shapes import SIZE
from metasum.tasks.stored import stored

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SHIFT = 4  # pixels
SAMPLE = 2048  # stored images that stand for all


def check_seen(name: str, images: Tensor, *, in_channels: int, image_size: int = SIZE) -> None:
    """Raises DatasetError where a network of this input cannot see the images of the dataset `name`.

    Args:
        name: of the dataset.
        images: `[N, C, H, W]`.
        in_channels: what the network takes: C, or 1 where C is 3 (luma), or any number where C is 1 (repeated).
        image_size: height and width that images are padded to.
    """
    channels, height, width = images.shape[1:]
    if stored(images) is not None:  # they are brought to any size
        height = width = image_size
    if max(height, width) > image_size:
        raise DatasetError(
            f"dataset {name!r} has images of {height}x{width}, which cannot be padded to {image_size}x{image_size}; "
            f"resize them first, or take --image-size {max(height, width)}."
        )
    if channels not in (1, in_channels) and (channels, in_channels) != (3, 1):
        raise DatasetError(
            f"dataset {name!r} has images of {channels} channels, of which none make {in_channels}; take "
            f"--in-channels {channels}."
        )


def moments(images: Tensor, *, in_channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel the network sees, over a whole split, in units of 0 to 1.

    Luma's are derived from the colours' covariance; padding does not count. Of stored images, 2,048 evenly spaced ones
    are looked at.

    Args:
        images: `[N, C, H, W]`, uint8.
        in_channels: what the network takes of them, see `check_seen`.

    Returns:
        Two float tensors `[in_channels]`; the standard deviation is at least 1/255.
    """
    if (apart := stored(images)) is not None:
        images = apart[torch.linspace(0, len(apart) - 1, min(SAMPLE, len(apart))).long()].read()
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
    return torch.ones(in_channels, 1) if channels == 1 else torch.eye(channels)


def prepare(images: Tensor, mean: Tensor, deviation: Tensor, size: int = SIZE) -> Tensor:
    """Pads to `size` x `size` with black, mixes channels (luma, or grey repeated) and normalises.

    Args:
        images: `[N, C, H, W]`, uint8, H and W at most `size`.
        mean: `[in_channels]`; `deviation` likewise.
        size: height and width of what comes out.

    Returns:
        `[N, in_channels, size, size]`, float.
    """
    height, width = images.shape[2:]
    top, left = (size - height) // 2, (size - width) // 2
    padded = pad(images, (left, size - width - left, top, size - height - top)).float() / 255
    in_channels, channels = len(mean), images.shape[1]
    if channels != in_channels:
        padded = torch.einsum("oc,nchw->nohw", _mixing(channels, in_channels).to(padded.device), padded)
    return (padded - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Moves each image up to 4 pixels either way ("shift"), and mirrors half of them ("shift-flip").

    What moves in at the rim repeats the rim. Draws come from `generator`, on the CPU, so that every device trains on
    the same images.

    Args:
        images: `[N, C, S, S]`, float.
        kind: "none", "shift" or "shift-flip".
        generator: a CPU generator.
    """
    if kind == "none":
        return images
    count, size, device = len(images), images.shape[-1], images.device
    offsets = torch.randint(-SHIFT, SHIFT + 1, (2, count, 1), generator=generator).to(device)
    line = torch.arange(size, device=device)
    rows, columns = ((line + offset).clamp(0, size - 1) for offset in offsets)
    if kind == "shift-flip":
        mirrored = torch.rand(count, 1, generator=generator).to(device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count, device=device).view(-1, 1, 1)
    return images.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()
