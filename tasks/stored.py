"""Images that need not fit into memory: they stay where they are, and are decoded when a batch asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasum.errors import DatasetError, MetaSumError, reason
from metasum.machine import usable_cores
from metasum.tasks.shapes import MOST_CHANNELS, SIZE

FEW = 512  # images that are not worth starting processes for
MOST_WORKERS = 8
FINGERPRINT = 32  # images of a Dataset that tell it from another one


class StoredImages:
    """Rows of a `torch.utils.data.Dataset`, of which only a chosen part is ever in memory. Not a tensor, but with the
    words of one that a split's images are asked for.

    Args:
        source: its items are (image, label): a PIL image, a uint8 tensor `[C, H, W]` or a uint8 array `[H, W, C]`, of
            any height and width. It is sent to other processes, which decode.
        name: of the dataset, for errors.
        rows: which items, and in what order [default: all].
        size: what images are brought to: the shorter side to it, then the middle square.
        device: where decoded images are put.
    """

    def __init__(
        self,
        source: Any,
        name: str,
        *,
        rows: Tensor | None = None,
        size: int = SIZE,
        device: torch.device | str = "cpu",
        channels: int | None = None,
    ) -> None:
        self._source, self._name, self._size, self._device = source, name, size, device
        self._rows = torch.arange(len(source)) if rows is None else rows
        self._channels = len(_decoded(source, name, 0, size)) if channels is None else channels

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, S, S."""
        return len(self), self._channels, self._size, self._size

    def __getitem__(self, rows: Tensor | slice) -> StoredImages:
        """Some of the rows; nothing is decoded yet."""
        return self._like(rows=self._rows[rows.cpu() if isinstance(rows, Tensor) else rows])

    def to(self, device: torch.device | str) -> StoredImages:
        """The same, decoded onto a device."""
        return self._like(device=device)

    def sized(self, size: int) -> StoredImages:
        """The same, of another height and width."""
        return self._like(size=size)

    def _like(self, **changed: Any) -> StoredImages:
        own = {"rows": self._rows, "size": self._size, "device": self._device, "channels": self._channels}
        return StoredImages(self._source, self._name, **{**own, **changed})

    def read(self) -> Tensor:
        """All its images, uint8 `[N, C, S, S]`; raises DatasetError where one cannot be decoded."""
        return torch.cat(list(self.pieces(FEW // 4)))

    def batches(self, orders: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each entry of `orders`, the images at these places, decoded ahead by processes where they are many.

        Raises:
            DatasetError: an image cannot be decoded.
        """
        from torch.utils.data import DataLoader

        many = sum(len(order) for order in orders) > FEW and len(orders) > 1
        items: Any = _Items(self._source, self._name, self._size)
        sampler = [self._rows[order.cpu()].tolist() for order in orders]
        workers = min(usable_cores(), MOST_WORKERS) if many else 0
        loader: Any = DataLoader(
            items,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_together,
            generator=torch.Generator(),  # or it would draw from the one that dropout draws from
        )
        for found in loader:
            if isinstance(found, str):
                raise DatasetError(found)
            if found.shape[1] != self._channels:
                raise DatasetError(
                    f"dataset {self._name!r} has images of {self._channels} and {found.shape[1]} channels."
                )
            yield found.to(self._device)

    def pieces(self, count: int) -> Iterator[Tensor]:
        """All its images in their order, `count` at a time."""
        return self.batches(torch.split(torch.arange(len(self)), count))

    def fingerprint(self) -> bytes:
        """Of a folder's images, their paths and sizes; of another Dataset, some of its images."""
        digest = hashlib.sha256(repr(len(self)).encode())
        samples = getattr(self._source, "samples", None)
        if isinstance(samples, list) and samples and isinstance(samples[0][0], str):
            root = Path(self._source.root)
            for file, label in samples:
                digest.update(f"{Path(file).relative_to(root)} {Path(file).stat().st_size} {label}\n".encode())
        else:
            rows = torch.linspace(0, len(self) - 1, min(FINGERPRINT, len(self))).long()
            digest.update(self[rows].read().cpu().numpy().tobytes())
        return digest.digest()


def stored(images: Any) -> StoredImages | None:
    """A split's images where they are not in memory; None of a tensor."""
    return images if isinstance(images, StoredImages) else None


def whole(images: Any) -> Tensor:
    """A tensor as it is; stored images decoded."""
    return images.read() if isinstance(images, StoredImages) else images


def pieces(images: Any, count: int) -> Iterable[Tensor]:
    """A tensor or stored images, `count` at a time."""
    return images.pieces(count) if isinstance(images, StoredImages) else torch.split(images, count)


class _Items:
    """What processes decode: an image, or a sentence on what is wrong with it, which crosses processes unharmed."""

    def __init__(self, source: Any, name: str, size: int) -> None:
        self.source, self.name, self.size = source, name, size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return _decoded(self.source, self.name, index, self.size)
        except MetaSumError as error:
            return str(error)


def _together(images: Sequence[Tensor | str]) -> Tensor | str:
    wrong = next((each for each in images if isinstance(each, str)), None)
    if wrong is not None:
        return wrong
    own = [each for each in images if isinstance(each, Tensor)]
    if len({len(each) for each in own}) > 1:
        return "images of one dataset differ in their channels."
    return torch.stack(own)


def _decoded(source: Any, name: str, index: int, size: int) -> Tensor:
    """One image, uint8 `[C, size, size]`; raises DatasetError where that cannot be."""
    samples = getattr(source, "samples", None)
    which = samples[index][0] if isinstance(samples, list) else f"number {index}"
    try:
        image = source[index][0]
        pixels = _pixels(image)
    except (Exception, SystemExit) as error:  # whatever decoders and users' own datasets raise
        raise DatasetError(f"dataset {name!r}: image {which} cannot be read ({reason(error)}).") from error
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or not 1 <= len(pixels) <= MOST_CHANNELS:
        raise DatasetError(
            f"dataset {name!r}: image {which} is {pixels.dtype} {list(pixels.shape)}, and should be a PIL image, a "
            "uint8 tensor [C, H, W] or a uint8 array [H, W, C]."
        )
    return _square(pixels, size)


def _pixels(image: Any) -> Tensor:
    if isinstance(image, Tensor):
        return image
    if hasattr(image, "convert"):  # PIL's
        image = np.array(image.convert("RGB"))
    array = np.asarray(image)
    return torch.from_numpy(np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1)))


def _square(pixels: Tensor, size: int) -> Tensor:
    """The shorter side at `size`, then the middle."""
    from torchvision.transforms.v2 import functional

    if pixels.shape[1:] != (size, size):
        pixels = functional.center_crop(functional.resize(pixels, [size], antialias=True), [size, size])
    return pixels.contiguous()
