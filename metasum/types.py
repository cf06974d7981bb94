"""The words every room speaks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from torch import Generator, Tensor

Parameters: TypeAlias = Mapping[str, Tensor]
"""θ: every `nn.Parameter` of a network by its dotted name. Buffers are not parameters."""

Buffers: TypeAlias = Mapping[str, Tensor]
"""A network's buffers (batch-norm running mean, variance, counter) by dotted name."""


T = TypeVar("T")


class Sides(NamedTuple, Generic[T]):
    """The same thing of the target and of the support."""

    target: T
    support: T


class Batch(NamedTuple):
    """Images as the network sees them, with labels."""

    images: Tensor
    """`[N, C, S, S]`, float, normalised, on the training device; S is 32 unless `--image-size` says otherwise."""
    labels: Tensor
    """`[N]`, int64."""

    @property
    def size(self) -> int:
        """N, in images."""
        return len(self.labels)


class Episode(NamedTuple):
    """What one training step is given."""

    target: Batch
    support: Batch


class FewShotEpisode(NamedTuple):
    """A small classification task: N classes, K images of each to learn them by, others to be judged by."""

    adaptation: Batch
    """N·K images; labels are 0 to N-1."""
    evaluation: Batch
    classes: Tensor
    """`[N]`, int64: which class of the dataset each label stands for."""

    @property
    def size(self) -> int:
        """All its images."""
        return self.adaptation.size + self.evaluation.size


@dataclass(frozen=True)
class Split:
    """A whole split."""

    images: Tensor
    """`[N, C, H, W]`, uint8; or `metasum.tasks.stored.StoredImages`, which are read batch by batch."""
    labels: Tensor
    """`[N]`, int64."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Two splits with the same classes. `source` says in a few words where they came from."""

    name: str
    train: Split
    test: Split
    num_classes: int
    source: str

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all images and labels, shortened to 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(repr(tuple(split.images.shape)).encode())
            stored = getattr(split.images, "fingerprint", None)  # of images that are not in memory
            digest.update(split.images.contiguous().numpy().data if stored is None else stored())
            digest.update(split.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]


class ImageSource(Protocol):
    """Training images to draw from."""

    def __len__(self) -> int: ...

    def training_batch(self, indices: Tensor, generator: Generator) -> Batch:
        """The images at `indices` `[N]`, augmented with draws from `generator`."""
        ...


class Task(Protocol):
    """A dataset as the harness needs it: ready batches, always the same ones."""

    def evaluation(self, limit: int | None = None) -> Iterable[Batch]:
        """Batches of held-out images in a fixed order, at most `limit` images."""
        ...

    def calibration(self, batches: int) -> Iterable[Tensor]:
        """At most `batches` unlabelled batches of training images, drawn once and for all."""
        ...
