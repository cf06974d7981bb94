"""Datasets that need not fit into memory: folders of images by class, and torch Datasets of plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from metasum.errors import DatasetError, reason
from metasum.tasks.arrays import checked_dataset
from metasum.tasks.stored import StoredImages
from metasum.types import Dataset, Split


def folder_dataset(name: str, root: Path) -> Dataset:
    """The images in NAME/train/CLASS and NAME/test/CLASS below the data root, decoded when they are needed.

    Raises:
        DatasetError: a folder holds no images, or the two have other classes.
    """
    from torchvision.datasets import ImageFolder

    found = {}
    for split in ("train", "test"):
        try:
            found[split] = ImageFolder(str(root / name / split))
        except (OSError, ValueError, RuntimeError) as error:
            raise DatasetError(
                f"dataset {name!r}: {root / name / split} is no folder of images ({reason(error)})."
            ) from error
    train, test = found.values()
    if train.classes != test.classes:
        other = sorted(set(train.classes) ^ set(test.classes))[0]
        raise DatasetError(f"dataset {name!r}: {root / name}/train and test have other classes; one lacks {other!r}.")
    return dataset_from_torch(name, (train, test), source=str(root / name))


def are_torch_datasets(value: Any) -> bool:
    """Whether a loader returned two torch Datasets, and not arrays."""
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_torch_dataset, value))


def _is_torch_dataset(value: Any) -> bool:
    return not isinstance(value, tuple | list) and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def dataset_from_torch(name: str, splits: tuple[Any, Any], *, source: str) -> Dataset:
    """A dataset of two torch Datasets, for training and for testing, of items (image, label).

    Args:
        name: the dataset's name.
        splits: with labels as `targets` or `labels`, or else they are read item by item. See `StoredImages` for images.
        source: in a few words, where they come from.

    Raises:
        DatasetError: an image cannot be decoded, or labels are not those of classes.
    """
    train, test = (_split(name, own, which) for own, which in zip(splits, ("train", "test"), strict=True))
    return checked_dataset(name, train, test, source=source)


def _split(name: str, source: Any, which: str) -> Split:
    if not len(source):
        raise DatasetError(f"dataset {name!r}: the {which} split is empty.")
    labels = _labels(name, source)
    if len(labels) != len(source):
        raise DatasetError(f"dataset {name!r}: the {which} split has {len(source)} images and {len(labels)} labels.")
    if int(labels.min()) < 0:
        raise DatasetError(f"dataset {name!r}: y_{which} has a label out of range: {int(labels.min())}.")
    # it has the words of a tensor that a split's images are asked for
    return Split(cast(Tensor, StoredImages(source, name)), labels)


def _labels(name: str, source: Any) -> Tensor:
    known = getattr(source, "targets", getattr(source, "labels", None))
    try:
        found = np.asarray([source[row][1] for row in range(len(source))] if known is None else known)
    except Exception as error:  # whatever users' own datasets raise
        raise DatasetError(f"dataset {name!r}: labels cannot be read ({reason(error)}).") from error
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise DatasetError(f"dataset {name!r}: labels must be whole numbers, one for each image, not {found.dtype}.")
    return torch.from_numpy(found.astype(np.int64))
