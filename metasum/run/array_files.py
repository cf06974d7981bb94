"""Data for a network of one's own in .npz files: batches in the form in which the network takes them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasum.errors import DatasetError, UsageError, reason
from metasum.npz import announced, check_size
from metasum.weights.batches import LABELS

BATCH = 256
INPUTS = ("x", "images")
MOST_CHANNELS = 4  # of images in uint8


class ArrayFile:
    """The inputs, and the labels where there are some, of a .npz file; it can be read again and again.

    It has an array `x` or `images`, and labels under one of the names that a batch may have them under
    (`metasum.weights.batches.LABELS`: `y`, `labels`, …); or the Keras layout (x_train, y_train, x_test, y_test), of
    which one half is read. Where it has no `x`, its arrays are the network's inputs by their names (`input_ids`, …).

    uint8 arrays of images `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` (C 1 to 4; where both would do, C is the last)
    become `[N, C, H, W]` from 0 to 1, normalised by `mean` and `std` where these are given; so does `[N, F]` called
    `x` or `images`, pixels in a row, which stays `[N, F]`. Other floats are taken as they are, in `dtype`; integers,
    too.

    Args:
        path: of the file. Pickled objects in it are refused, not loaded.
        split: "train" or "test": the half of the Keras layout.
        mean: of each channel, on the scale from 0 to 1; `std`, its standard deviation, likewise.
        dtype: of floats.

    Raises:
        DatasetError: it is not there or damaged, its arrays are not of one length, images in uint8 are of another
            shape, or it has no labels while it is to be measured on (`labelled`).
        UsageError: mean and std do not go together, or are not one for each channel.

    Yields:
        Tuples (inputs, labels) or (inputs,); of several inputs a dictionary with the labels in it.
    """

    def __init__(
        self,
        path: Path | str,
        split: str,
        *,
        labelled: bool = False,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.path, self._mean, self._std, self._dtype = Path(path), tuple(mean), tuple(std), dtype
        self.what = str(path)
        """What errors call it."""
        self._inputs, self._labels, self.has_other_half = _taken(self.path, split)
        sizes = {name: len(array) if array.ndim else 0 for name, array in self._inputs.items()}
        if self._labels is not None:
            sizes["its labels"] = len(self._labels) if self._labels.ndim else 0
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            told = ", ".join(f"{size} of {name}" for name, size in sizes.items())
            raise DatasetError(f"{self.path}: all arrays must have as many rows, at least one; there are {told}.")
        if labelled and self._labels is None:
            raise DatasetError(f"{self.path} has no labels to measure on; add an array 'y'.")
        self._images = {name: own for name, array in self._inputs.items() if (own := _channels(self.path, name, array))}
        self._check_moments()

    def __len__(self) -> int:
        """How many batches there are."""
        return -(-self.count // BATCH)

    @property
    def count(self) -> int:
        """How many inputs there are."""
        return len(next(iter(self._inputs.values())))

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self.count, BATCH):
            rows = slice(start, start + BATCH)
            inputs = {name: self._prepared(name, array[rows]) for name, array in self._inputs.items()}
            labels = () if self._labels is None else (torch.from_numpy(self._labels[rows].astype(np.int64)),)
            if len(inputs) == 1:
                yield (*inputs.values(), *labels)
            else:
                yield inputs | ({"labels": labels[0]} if labels else {})

    def _prepared(self, name: str, array: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if name not in self._images:
            return tensor.to(self._dtype) if tensor.is_floating_point() else tensor
        if tensor.ndim == 3:
            tensor = tensor.unsqueeze(1)
        elif tensor.ndim == 4 and tensor.shape[3] <= MOST_CHANNELS:
            tensor = tensor.permute(0, 3, 1, 2).contiguous()
        images = tensor.to(self._dtype) / 255
        if self._mean:
            shape = (1, -1, 1, 1)[: tensor.ndim]
            mean, std = (torch.tensor(own, dtype=self._dtype).view(shape) for own in (self._mean, self._std))
            images = (images - mean) / std
        return images

    def _check_moments(self) -> None:
        if len(self._mean) != len(self._std):
            raise UsageError("--mean and --std go together, with a number for each channel in both.")
        if not self._mean:
            return
        if any(value <= 0 for value in self._std):
            raise UsageError("--std takes numbers above 0.")
        if not self._images:
            raise UsageError(f"--mean and --std are for images in uint8, of which {self.path} has none.")
        channels = next(iter(self._images.values()))
        if len(self._mean) not in (1, channels):
            raise UsageError(f"--mean has {len(self._mean)} numbers, and {self.path} images of {channels} channels.")


def _channels(path: Path, name: str, array: np.ndarray[Any, Any]) -> int | None:
    """How many channels images in uint8 have; None of everything else. Raises DatasetError for another shape."""
    called = name.partition("_")[0] in INPUTS  # x, images, x_train, x_test
    if array.dtype != np.uint8 or array.ndim < (2 if called else 3):
        return None
    if array.ndim < 4:
        return 1
    channels = [size for size in (array.shape[-1], array.shape[1]) if size <= MOST_CHANNELS]
    if array.ndim > 4 or not channels:
        raise DatasetError(
            f"{path}: {name!r} is uint8 {list(array.shape)}; images in uint8 are [N, H, W], [N, H, W, C] or "
            f"[N, C, H, W], with C of 1 to {MOST_CHANNELS}. Store others as the floats that the network takes."
        )
    return int(channels[0])


def _taken(path: Path, split: str) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any] | None, bool]:
    """The inputs by name, the labels, and whether there is the other half of the Keras layout."""
    arrays, names = _read(path, split)
    if f"x_{split}" not in arrays and {"x_train", "x_test"} & set(arrays):
        raise DatasetError(f"{path} lacks x_{split}; it has {', '.join(arrays)}.")
    labels = next((arrays.pop(name) for name in (f"y_{split}", *LABELS) if name in arrays), None)
    chosen = next((name for name in (f"x_{split}", *INPUTS) if name in arrays), None)
    inputs = arrays if chosen is None else {chosen: arrays[chosen]}
    if not inputs:
        raise DatasetError(f"{path} holds no inputs; name an array {INPUTS[0]!r} or {INPUTS[1]!r}.")
    for name, array in [*inputs.items(), *([] if labels is None else [("labels", labels)])]:
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
            raise DatasetError(f"{path}: {name!r} is {array.dtype}, and should be numbers.")
    if labels is not None:
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if not np.issubdtype(labels.dtype, np.integer):
            raise DatasetError(f"{path}: labels are whole numbers, not {labels.dtype}.")
    return inputs, labels, {"x_train", "x_test"} <= names


def _read(path: Path, split: str) -> tuple[dict[str, np.ndarray[Any, Any]], set[str]]:
    """The arrays of a file, of the Keras layout only those of this half; and the names of all."""
    if not path.is_file():
        raise DatasetError(f"there is no file {path}.")
    try:
        with path.open("rb") as opened:
            headers = announced(path, opened) if zipfile.is_zipfile(opened) else {}
            opened.seek(0)
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                return {INPUTS[0]: file}, set()
            wanted = [name for name in file.files if name not in _other_half(file.files, split)]
            check_size(path, headers, wanted)
            return {name: file[name] for name in wanted}, set(file.files)
    except DatasetError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and its header parser raise a dozen kinds
        raise DatasetError(f"{path} is damaged or is not a .npz file ({reason(error)}).") from error


def _other_half(names: Sequence[str], split: str) -> Sequence[str]:
    other = "train" if split == "test" else "test"
    return (f"x_{other}", f"y_{other}") if f"x_{split}" in names else ()


def moments_of(text: Mapping[str, str | None]) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` as numbers, from "0.5,0.4,0.3"; raises UsageError for anything else."""
    found = {}
    for name, words in text.items():
        try:
            found[name] = () if words is None else tuple(float(word) for word in words.split(","))
        except ValueError as error:
            raise UsageError(f"--{name} takes numbers separated by commas, not {words!r}.") from error
    return found
