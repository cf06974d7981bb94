"""Images that are nearly a network's own: made of its own by destroying what its classes are known by.

A network that is to be quiet on foreign images has to learn on some what foreign means. Photographs teach it to be
quiet on photographs. Images that share its strokes, its contrast and its background, and no class, teach it where its
own classes end: Outlier Exposure (Hendrycks et al. 2019, arXiv:1812.04606, section 5) found that outliers near to the
data teach most; rotations, and pieces put together anew, are those of CSI (Tack et al. 2020, arXiv:2007.08176).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

WARP = 0.35  # standard deviation of a warp, in half images


def near_misses(images: Tensor, count: int) -> Tensor:
    """As many images of each kind as `count` has room for, in random order; no gradient is recorded.

    Seven kinds: quarters that changed places, halves of two images, two images laid over each other, and images that
    are inverted, turned by a multiple of 90°, mirrored, or warped. A few still show their own class (a mirrored 8).

    Args:
        images: `[N, C, H, W]` of one dataset, normalised, H and W even; at least two.
        count: how many are made.

    Returns:
        `[count, C, H, W]`. Draws come from PyTorch's global generator of the CPU.
    """
    with torch.no_grad():
        parts = torch.arange(count).tensor_split(len(KINDS))
        made = [kind(_drawn(images, len(part))) for kind, part in zip(KINDS, parts, strict=True) if len(part)]
        return torch.cat([images[:0], *made])[torch.randperm(count)]


def _drawn(images: Tensor, count: int) -> Tensor:
    return images[torch.randint(len(images), (count,))]


def _quarters(images: Tensor) -> Tensor:
    """Moved on by one, two or three places."""
    rows = [half.chunk(2, dim=3) for half in images.chunk(2, dim=2)]
    quarters = [*rows[0], *rows[1]]
    first = int(torch.randint(1, 4, ()))
    a, b, c, d = quarters[first:] + quarters[:first]
    return torch.cat([torch.cat([a, b], dim=3), torch.cat([c, d], dim=3)], dim=2)


def _halves(images: Tensor) -> Tensor:
    dimension = 2 + int(torch.randint(2, ()))
    other = images.roll(1, dims=0)
    return torch.cat([images.chunk(2, dim=dimension)[0], other.chunk(2, dim=dimension)[1]], dim=dimension)


def _laid_over(images: Tensor) -> Tensor:
    return torch.maximum(images, images.roll(1, dims=0))


def _inverted(images: Tensor) -> Tensor:
    return -images


def _turned(images: Tensor) -> Tensor:
    return images.rot90(int(torch.randint(1, 4, ())), dims=(2, 3))


def _mirrored(images: Tensor) -> Tensor:
    return images.flip(2 + int(torch.randint(2, ())))


def _warped(images: Tensor) -> Tensor:
    count, _, height, width = images.shape
    shifts = interpolate(WARP * torch.randn(count, 2, 5, 5), size=(height, width), mode="bicubic")
    straight = affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, height, width], align_corners=False)
    where = (straight + shifts.permute(0, 2, 3, 1)).to(images)
    return grid_sample(images, where, padding_mode="border", align_corners=False)


KINDS = (_quarters, _halves, _laid_over, _inverted, _turned, _mirrored, _warped)
