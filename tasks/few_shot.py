"""Datasets for few-shot learning: classes divided into those to meta-train, to validate and to test on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasum import third_party
from metasum.errors import DatasetError, UsageError, reason
from metasum.files import check_folder_name
from metasum.tasks.images import check_seen, moments
from metasum.tasks.loading import load_dataset
from metasum.tasks.stored import stored

PARTS = ("train", "validation", "test")
SHARES = (0.64, 0.16)  # of the classes, for the first two parts, as in miniImageNet and CIFAR-FS
OMNIGLOT_SPLIT = (1100, 100)  # Vinyals et al. 2016: 1,200 characters, of which the last 100 validate; the rest tests


@dataclasses.dataclass(frozen=True)
class FewShotDataset:
    """Images of many classes, and which class belongs to which part."""

    name: str
    images: Tensor
    """`[N, C, H, W]`, uint8, C 1 or 3, at most 32x32."""
    labels: Tensor
    """`[N]`, int64."""
    classes: Mapping[str, tuple[int, ...]]
    """Class numbers by part: "train", "validation", "test"; no class is in two."""
    source: str

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over all images, labels and parts, shortened to 16 hexadecimal digits."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), sorted(self.classes.items()))).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def of_part(self, part: str) -> Tensor:
        """`[N]`, bool: which images belong to classes of "train", "validation" or "test"."""
        return torch.isin(self.labels, torch.tensor(self.classes[part]))

    def moments(self, in_channels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the images to train on, by which all are normalised; computed once.

        Args:
            in_channels: 1 or 3: what the network takes.

        Returns:
            Two float tensors `[in_channels]`.
        """
        check_seen(self.name, self.images, in_channels=in_channels)
        if in_channels not in self._moments:
            self._moments[in_channels] = moments(self.images[self.of_part("train")], in_channels=in_channels)
        return self._moments[in_channels]

    @cached_property
    def _moments(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}


def load_few_shot(name: str, *, root: Path, download: bool = False) -> FewShotDataset:
    """The dataset called `name`: "omniglot" and "cifar-fs" with their published splits, else any that has a name.

    Of those, training and test images are taken together, and the classes divided 64 : 16 : 20, always alike.

    Args:
        name: of the dataset.
        root: the data root; "omniglot" lies there as torchvision leaves it, "cifar-fs" as learn2learn does.
        download: fetch what is not there.

    Raises:
        UsageError: nobody knows the name.
        DatasetError: it is known and not there, or damaged.
    """
    check_folder_name("a dataset called", name)
    if name in _PUBLISHED:
        try:
            return _PUBLISHED[name](root, download)
        except (DatasetError, UsageError, MemoryError):
            raise
        except Exception as error:
            told = f"dataset {name!r} could not be read from {root} ({reason(error)})"
            raise DatasetError(f"{told}." if download else f"{told}; --download fetches it.") from error
    dataset = load_dataset(name, root=root, download=download)
    if stored(dataset.train.images) is not None:
        raise DatasetError(f"dataset {name!r} is read batch by batch; few-shot learning takes what fits into memory.")
    check_seen(name, dataset.train.images, in_channels=dataset.train.images.shape[1])
    images, labels = (
        torch.cat([getattr(split, part) for split in (dataset.train, dataset.test)]) for part in ("images", "labels")
    )
    order = torch.randperm(dataset.num_classes, generator=torch.Generator().manual_seed(0)).tolist()
    cuts = [round(share * dataset.num_classes) for share in (SHARES[0], sum(SHARES))]
    return FewShotDataset(name, images, labels, _parts(order, cuts), dataset.source)


def check_episodes(dataset: FewShotDataset, part: str, *, ways: int, images: int) -> None:
    """Raises UsageError where `dataset` has no episodes of `ways` classes with `images` images each in this part."""
    classes = dataset.classes[part]
    if len(classes) < ways:
        use = {"train": "meta-train on", "validation": "validate on", "test": "test on"}[part]
        raise UsageError(
            f"--ways {ways}: dataset {dataset.name!r} has {len(classes)} classes to {use} "
            f"({len(torch.unique(dataset.labels))} in all)."
        )
    counts = torch.bincount(dataset.labels)[list(classes)]
    if int(counts.min()) < images:
        raise UsageError(
            f"an episode takes {images} images of each class (--shots and --queries), and dataset {dataset.name!r} has "
            f"a class with {int(counts.min())}."
        )


def _parts(order: list[int], cuts: list[int]) -> dict[str, tuple[int, ...]]:
    first, second = cuts
    return dict(zip(PARTS, (tuple(order[:first]), tuple(order[first:second]), tuple(order[second:])), strict=True))


def _omniglot(root: Path, download: bool) -> FewShotDataset:
    """All 1,623 characters, shrunk to 28x28, white on black; the split is random, as there is no other for 1,200."""
    from PIL import Image

    def pixels(image: Any) -> Any:
        return 255 - np.asarray(image.convert("L").resize((28, 28), Image.Resampling.LANCZOS))

    with contextlib.redirect_stdout(sys.stderr):
        characters = third_party.learn2learn().vision.datasets.FullOmniglot(
            str(root), transform=pixels, download=download
        )
    images, labels = zip(*characters, strict=True)
    order = torch.randperm(max(labels) + 1, generator=torch.Generator().manual_seed(0)).tolist()
    cuts = [OMNIGLOT_SPLIT[0], sum(OMNIGLOT_SPLIT)]
    return _stacked("omniglot", list(images), list(labels), _parts(order, cuts), "torchvision")


def _cifar_fs(root: Path, download: bool) -> FewShotDataset:
    """100 classes of CIFAR-100 in the split of Bertinetto et al. 2019."""
    if not (root / "cifarfs").is_dir() and not download:
        raise DatasetError(
            f"dataset 'cifar-fs' is not in {root} (learn2learn's folder cifarfs); --download fetches it."
        )
    images, labels, classes = list[Any](), list[int](), dict[str, tuple[int, ...]]()
    for part in PARTS:
        with contextlib.redirect_stdout(sys.stderr):
            found = third_party.learn2learn().vision.datasets.CIFARFS(str(root), mode=part, download=download)
        first = max(labels, default=-1) + 1
        for image, label in found:
            images.append(np.asarray(image.convert("RGB")))
            labels.append(first + label)
        classes[part] = tuple(range(first, max(labels) + 1))
    return _stacked("cifar-fs", images, labels, classes, "learn2learn")


def _stacked(
    name: str, images: list[Any], labels: list[int], classes: Mapping[str, tuple[int, ...]], source: str
) -> FewShotDataset:
    pixels = np.stack(images)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return FewShotDataset(
        name,
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
        torch.tensor(labels, dtype=torch.int64),
        classes,
        source,
    )


_PUBLISHED = {"omniglot": _omniglot, "cifar-fs": _cifar_fs}
