"""A dataset made ready to train on: splits on the device, normalised batch by batch; and several datasets as one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from metasum.arguments import check_between, checked
from metasum.config.words import Augmentation, HeldOut
from metasum.errors import UsageError
from metasum.tasks.images import augment, check_seen, moments, prepare
from metasum.tasks.shapes import LARGEST, MOST_CHANNELS, SIZE
from metasum.tasks.stored import pieces, stored, whole
from metasum.types import Batch, Dataset, Split, Task

EVALUATION_BATCH = 256
VALIDATION_SHARE = 0.1
FIXED_SEED = 0  # of the validation split and the calibration images, which are the same in every run


class ImageTask:
    """One dataset as training and evaluation see it.

    Args:
        dataset: its whole splits.
        in_channels: what the network takes, see `metasum.tasks.images.check_seen`.
        device: where batches are made; the splits are moved there.
        augmentation: "none", "shift" or "shift-flip", for training batches.
        evaluate_on: "test", or "validation": a fixed tenth of the training images, taken out of training.
        image_size: height and width of what the network sees; smaller images are padded with black.

    Raises:
        DatasetError: the images are larger, or have other channels.
    """

    @checked
    def __init__(
        self,
        dataset: Dataset,
        *,
        in_channels: int = 1,
        device: torch.device | str = "cpu",
        augmentation: Augmentation = "none",
        evaluate_on: HeldOut = "test",
        image_size: int = SIZE,
    ) -> None:
        try:
            torch.device(device)
        except RuntimeError as error:
            raise UsageError(f"device= takes the name of a device, not {device!r}.") from error
        check_between("in_channels", in_channels, 1, MOST_CHANNELS)
        check_between("image_size", image_size, 1, LARGEST)
        check_seen(dataset.name, dataset.train.images, in_channels=in_channels, image_size=image_size)
        self._size = image_size
        self._coming: Iterator[tuple[Tensor, Tensor]] = iter(())
        train, held_out = dataset.train, dataset.test
        order = _fixed_order(len(train))
        train, held_out = (_sized(split, image_size) for split in (train, held_out))
        if evaluate_on == "validation":
            train, held_out = validation_split(train)
            order = torch.arange(len(train))
        self._train, self._held_out = _moved(train, device), _moved(held_out, device)
        self._order = order.to(device)
        mean, deviation = moments(train.images, in_channels=in_channels)
        self._mean, self._deviation = mean.to(device), deviation.to(device)
        self._augmentation = augmentation
        self.num_classes = dataset.num_classes

    def __len__(self) -> int:
        """The number of training images."""
        return len(self._train)

    @property
    def labels(self) -> Tensor:
        """Of all training images, `[N]`, int64, on the CPU."""
        return self._train.labels.cpu()

    def expect(self, batches: Sequence[Tensor]) -> None:
        """Says what `training_batch` will be asked for next: images that are stored are decoded ahead of that.

        Args:
            batches: indices `[N]`, in their order. What was said before no longer holds.
        """
        images = stored(self._train.images)
        if images is not None:
            self._coming = zip(batches, images.batches(batches), strict=True)

    def training_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """The training images at `indices` `[N]`, augmented with draws from `generator`."""
        expected, pixels = next(self._coming, (None, None))
        indices = indices.to(self._train.labels.device)
        if pixels is None or expected is None or not torch.equal(expected, indices.cpu()):
            self._coming, pixels = iter(()), whole(self._train.images[indices])
        images = self._prepared(pixels)
        return Batch(augment(images, self._augmentation, generator), self._train.labels[indices])

    def evaluation(self, limit: int | None = None) -> Iterator[Batch]:
        """Held-out images in their own order, at most `limit` of them, in batches of 256."""
        images, labels = self._held_out.images[:limit], self._held_out.labels[:limit]
        for pixels, answers in zip(*(pieces(part, EVALUATION_BATCH) for part in (images, labels)), strict=True):
            yield Batch(self._prepared(pixels), answers)

    def calibration(self, batches: int) -> Iterator[Tensor]:
        """At most `batches` equal batches of up to 256 training images, the same every time, not augmented."""
        used = self._order[: batches * EVALUATION_BATCH]
        for indices in used.tensor_split(math.ceil(len(used) / EVALUATION_BATCH)):
            yield self._prepared(whole(self._train.images[indices]))

    def _prepared(self, pixels: Tensor) -> Tensor:
        return prepare(pixels, self._mean, self._deviation, self._size)


class UnionTask:
    """What a sum of networks is deployed on: several tasks' held-out images.

    Every calibration batch holds as many images of each. A small dataset's come round again, so that statistics on the
    union belong to all datasets alike, however many images each has. Every dataset keeps its own normalisation.

    Args:
        tasks: one or more.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)

    def evaluation(self, limit: int | None = None) -> Iterator[Batch]:
        """Held-out images of the first task, then of the next; at most `limit` of each."""
        return itertools.chain.from_iterable(task.evaluation(limit) for task in self._tasks)

    def calibration(self, batches: int) -> Iterator[Tensor]:
        """At most `batches` batches, each a mixture of all tasks in equal parts."""
        own = [list(task.calibration(batches)) for task in self._tasks]
        for index in range(max(len(images) for images in own)):
            drawn = [images[index % len(images)] for images in own]
            share = min(len(images) for images in drawn)
            yield torch.cat([images[:share] for images in drawn])


def validation_split(train: Split) -> tuple[Split, Split]:
    """Training images without a fixed tenth, in random order, and that tenth; the same every time."""
    order = _fixed_order(len(train))
    count = max(1, round(len(train) * VALIDATION_SHARE))
    return _subset(train, order[count:]), _subset(train, order[:count])


def _fixed_order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(FIXED_SEED))


def _subset(split: Split, indices: Tensor) -> Split:
    return Split(split.images[indices], split.labels[indices])


def _sized(split: Split, size: int) -> Split:
    images = stored(split.images)
    return split if images is None else Split(cast(Tensor, images.sized(size)), split.labels)


def _moved(split: Split, device: torch.device | str) -> Split:
    return Split(split.images.to(device), split.labels.to(device))
