"""torchvision's datasets, in torchvision's own folders under the data root; downloaded only when asked to."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from metasum.errors import DatasetError, reason
from metasum.tasks.shapes import Arrays

# name: (torchvision class, keywords of its training split, keywords of its test split)
VISION: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mnist": ("MNIST", {"train": True}, {"train": False}),
    "fashionmnist": ("FashionMNIST", {"train": True}, {"train": False}),
    "kmnist": ("KMNIST", {"train": True}, {"train": False}),
    "emnist": ("EMNIST", {"split": "letters", "train": True}, {"split": "letters", "train": False}),
    "usps": ("USPS", {"train": True}, {"train": False}),
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
}


def vision_arrays(name: str, root: Path, *, download: bool) -> Arrays:
    """The four arrays of a torchvision dataset.

    torchvision compares the published checksums before it reads CIFAR's pickled batches, so no foreign pickle is
    loaded.

    Args:
        name: a key of `VISION`.
        root: the data root, with the folder layout that torchvision makes.
        download: fetch what is not there.

    Raises:
        DatasetError: it is not there (the message names flag and folder), or could not be fetched or read.
    """
    import torchvision.datasets

    kind, train, test = VISION[name]
    factory = getattr(torchvision.datasets, kind)
    splits = []
    for keywords in (train, test):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                splits.append(_arrays_of(name, factory(str(root), download=download, **keywords)))
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            raise _explained(error, name, root, download) from error
    return splits[0], splits[1]


def _explained(error: Exception, name: str, root: Path, download: bool) -> DatasetError:
    if download:
        return DatasetError(f"dataset {name!r} could not be downloaded to {root} ({reason(error)}).")
    if isinstance(error, FileNotFoundError) or "not found" in str(error):
        return DatasetError(
            f"dataset {name!r} is not in {root} (neither {name}.npz nor torchvision's folder); "
            f"add --download to fetch it, or --data-root to look elsewhere."
        )
    return DatasetError(f"torchvision could not read dataset {name!r} in {root} ({reason(error)}).")


def _arrays_of(name: str, dataset: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets).astype(np.int64)
    images = np.asarray(dataset.data)
    if name == "svhn":  # [N, C, H, W]
        images = images.transpose(0, 2, 3, 1)
    if name == "emnist":  # stored lying on its side; labels 1 to 26
        images, labels = images.transpose(0, 2, 1), labels - 1
    return images, labels
