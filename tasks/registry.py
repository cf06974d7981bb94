"""Datasets and task pairs by name: two dictionaries to read, and the order in which a name is looked up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasum.errors import DatasetError, MetaSumError, UsageError, unknown
from metasum.files import check_folder_name
from metasum.plugins import registrar
from metasum.tasks import embedded, glyphs
from metasum.tasks.arrays import dataset_from_arrays, read_npz
from metasum.tasks.folders import are_torch_datasets, dataset_from_torch, folder_dataset, is_folder
from metasum.tasks.pairs import BUILT_IN_PAIRS, Recipe, TaskPair
from metasum.tasks.vision import VISION, vision_arrays
from metasum.types import Dataset

Loader = Callable[[], Any]
"""Returns ((x_train, y_train), (x_test, y_test)), as Keras's datasets do, or two torch Datasets, (train, test)."""


@dataclass(frozen=True)
class DatasetEntry:
    """A registered dataset."""

    loader: Loader
    summary: str
    source: str


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(embedded.digits, "1,797 real handwritten digits, 8x8 enlarged to 24x24", "embedded"),
    "letters": DatasetEntry(embedded.letters, "5,000 rendered letters A to J, grey", "embedded"),
    "printed-digits": DatasetEntry(embedded.printed_digits, "5,000 rendered digits in colour scenes", "embedded"),
    "glyphs": DatasetEntry(
        glyphs.glyphs, "6,800 drawings of 340 rendered characters, for few-shot learning", "embedded"
    ),
}
PAIRS: dict[str, TaskPair] = {pair.name: pair for pair in BUILT_IN_PAIRS}


def register_dataset(name: str, loader: Loader, *, summary: str = "", source: str | None = None) -> None:
    """Adds a dataset under `name`.

    Args:
        name: as `--target` and `--support` will take it.
        loader: called when the dataset is needed; returns ((x_train, y_train), (x_test, y_test)): images uint8
            `[N, H, W]` or `[N, H, W, C]` up to 224x224, integer labels `[N]` from 0. Or two torch Datasets, to
            train and to test on, whose items are (image, label): they are read batch by batch.
        summary: one line for `metasum tasks`.
        source: where it comes from, for the same list [default: the plug-in that is being run, else "Python"].

    Raises:
        UsageError: the name is taken, or cannot name a folder.
    """
    check_folder_name("a dataset called", name)
    if name in DATASETS:
        raise UsageError(f"there is a dataset {name!r} already (from {DATASETS[name].source}).")
    DATASETS[name] = DatasetEntry(loader, summary, source or registrar())


def register_pair(pair: TaskPair) -> None:
    """Adds a pair with its recipe; its datasets need not be registered yet.

    Raises:
        UsageError: there is such a pair already.
    """
    if pair.name in PAIRS:
        raise UsageError(f"there is a pair {pair.name!r} already.")
    PAIRS[pair.name] = pair if pair.source != "Python" else dataclasses.replace(pair, source=registrar())


def pair_of(target: str, support: str) -> TaskPair:
    """The registered pair of these datasets, or one with the default recipe."""
    return PAIRS.get(f"{target}+{support}", TaskPair(target, support, Recipe()))


def load_dataset(name: str, *, root: Path, download: bool = False) -> Dataset:
    """The dataset called `name`: registered, else `<root>/<name>.npz`, else folders of images, else torchvision's.

    Folders are `<root>/<name>/train/CLASS` and `<root>/<name>/test/CLASS`; images in them are decoded batch by batch.

    Args:
        name: of the dataset.
        root: the data root.
        download: let torchvision fetch what is not there.

    Raises:
        UsageError: nobody knows the name; the nearest known one is in the message.
        DatasetError: it is known and not there, or damaged, or not what a dataset should be.
    """
    check_folder_name("a dataset called", name)
    if name == "union":
        raise UsageError("a dataset cannot be called 'union': that is what results call all datasets together.")
    if name in DATASETS:
        entry = DATASETS[name]
        try:
            arrays = entry.loader()
        except (MetaSumError, MemoryError):
            raise
        except Exception as error:
            raise DatasetError(f"the loader of dataset {name!r} ({entry.source}) failed: {error!r}.") from error
        if are_torch_datasets(arrays):
            return dataset_from_torch(name, arrays, source=entry.source)
        return dataset_from_arrays(name, arrays, source=entry.source)
    path = root / f"{name}.npz"
    if path.is_file():
        return dataset_from_arrays(name, read_npz(path), source=str(path))
    if is_folder(root, name):
        return folder_dataset(name, root)
    if name in VISION:
        return dataset_from_arrays(name, vision_arrays(name, root, download=download), source="torchvision")
    raise unknown(
        "dataset", name, known_datasets(root), more=f"Or put {name}.npz, or {name}/train and {name}/test, into {root}."
    )


def known_datasets(root: Path) -> dict[str, tuple[str, str]]:
    """Every name that `load_dataset` would look for, with a summary and where it comes from."""
    known = {name: (entry.summary, entry.source) for name, entry in DATASETS.items()}
    for path in sorted(root.glob("*.npz")) if root.is_dir() else []:
        known.setdefault(path.stem, ("Keras layout", str(path)))
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if is_folder(root, path.name):
            known.setdefault(path.name, ("images in folders by class", str(path)))
    for name, (kind, *_) in VISION.items():
        known.setdefault(name, (f"torchvision.datasets.{kind}, fetched with --download", "torchvision"))
    return known
