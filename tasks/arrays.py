"""From four arrays in the Keras layout to a checked dataset: the one door through which every dataset comes in."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from metasum.errors import DatasetError, MetaSumError, reason
from metasum.npz import announced, check_size
from metasum.tasks.shapes import KEYS, LARGEST, MOST_CHANNELS, Arrays
from metasum.types import Dataset, Split

Array: TypeAlias = "np.ndarray[Any, Any]"


def dataset_from_arrays(name: str, arrays: Arrays, *, source: str) -> Dataset:
    """Checks the arrays and makes a `Dataset` of them.

    Args:
        name: the dataset's name.
        arrays: numpy arrays, or anything numpy makes arrays of.
        source: in a few words, where they come from.

    Raises:
        DatasetError: wrong shape, dtype, size or labels; the array is named.
    """
    try:
        (x_train, y_train), (x_test, y_test) = arrays
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"dataset {name!r} ({source}) is not ((x_train, y_train), (x_test, y_test)): {error}."
        ) from error
    where = f"dataset {name!r} ({source})"
    return checked_dataset(
        name, _split(where, "train", x_train, y_train), _split(where, "test", x_test, y_test), source=source
    )


def checked_dataset(name: str, train: Split, test: Split, *, source: str) -> Dataset:
    """The two splits as a dataset; raises DatasetError where they are not alike, or labels not those of classes."""
    where = f"dataset {name!r} ({source})"
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DatasetError(
            f"{where}: training images are {_size(train)} and test images {_size(test)}; they must be alike."
        )
    num_classes = int(train.labels.max()) + 1
    if num_classes > len(train):
        raise DatasetError(f"{where}: y_train has label {num_classes - 1} out of range for {len(train)} images.")
    if num_classes < 2:
        raise DatasetError(f"{where}: y_train has one class only.")
    missing = (torch.bincount(train.labels, minlength=num_classes) == 0).nonzero().flatten().tolist()
    if missing:
        told = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise DatasetError(
            f"{where}: y_train has labels 0 to {num_classes - 1}, but no {told}; number classes from 0 without gaps."
        )
    if int(test.labels.max()) >= num_classes:
        raise DatasetError(
            f"{where}: y_test has label {int(test.labels.max())} out of range: y_train has 0 to {num_classes - 1}."
        )
    return Dataset(name, train, test, num_classes, source)


def _formed(where: str, split: str, images: Any, labels: Any) -> tuple[Array, Array]:
    """The arrays as `[N, H, W, C]` and `[N]`; raises DatasetError where dtype or shape are others. No value is read."""
    x, y = np.asarray(images), np.asarray(labels)
    if x.dtype != np.uint8:
        raise DatasetError(f"{where}: x_{split} must be uint8, not {x.dtype}.")
    if x.ndim == 3:
        x = x[..., None]
    channels_first = x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3)
    if x.ndim != 4 or not 1 <= x.shape[3] <= MOST_CHANNELS or channels_first:
        raise DatasetError(
            f"{where}: x_{split} must have shape [N, H, W] or [N, H, W, C] with C 1 to {MOST_CHANNELS}, not "
            f"{list(x.shape)}."
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if not np.issubdtype(y.dtype, np.integer):
        raise DatasetError(f"{where}: y_{split} must be integers, not {y.dtype}.")
    if y.shape != (len(x),):
        raise DatasetError(f"{where}: y_{split} must have shape [{len(x)}], as x_{split} has, not {list(y.shape)}.")
    if not len(x):
        raise DatasetError(f"{where}: the {split} split is empty.")
    if not 0 < min(x.shape[1:3]) <= max(x.shape[1:3]) <= LARGEST:
        raise DatasetError(
            f"{where}: images of {x.shape[1]}x{x.shape[2]} are not of 1x1 to {LARGEST}x{LARGEST}; resize them first."
        )
    return x, y


def _split(where: str, split: str, images: Any, labels: Any) -> Split:
    x, y = _formed(where, split, images, labels)
    if y.min() < 0 or y.max() >= 2**31:
        raise DatasetError(f"{where}: y_{split} has a label out of range: {y.min()} to {y.max()}, not 0 to K-1.")
    pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return Split(pixels, torch.from_numpy(y.astype(np.int64)))


def _size(split: Split) -> str:
    channels, height, width = split.images.shape[1:]
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def read_npz(path: Path, where: str | None = None) -> Arrays:
    """The four arrays of a .npz file in the Keras layout. Pickled objects are refused, not loaded.

    Args:
        path: of the file.
        where: what errors call the dataset [default: the path].

    Raises:
        DatasetError: the file is truncated, is not a .npz file, lacks one of the four arrays, has one of another shape
            or dtype, or is more than there is memory. All but the first is seen before an array is inflated.
    """
    where = where or str(path)
    try:
        with path.open("rb") as opened:
            headers = announced(path, opened) if zipfile.is_zipfile(opened) else {}
            opened.seek(0)
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DatasetError(f"{path} is not a .npz file (it holds a single array).")
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise DatasetError(
                    f"{path} lacks {missing[0]}; the Keras layout is {', '.join(KEYS)}, and it has "
                    f"{', '.join(file.files) or 'nothing'}."
                )
            for split in ("train", "test"):
                images, labels = (headers[f"{name}_{split}"] for name in "xy")
                if not images.dtype.hasobject and not labels.dtype.hasobject:  # numpy refuses those, with its reason
                    _formed(where, split, images, labels)
            check_size(path, headers, KEYS)
            arrays = [file[key] for key in KEYS]
    except MetaSumError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and its header parser raise a dozen kinds
        raise DatasetError(f"{path} is damaged or is not a .npz file ({reason(error)}).") from error
    return (arrays[0], arrays[1]), (arrays[2], arrays[3])
