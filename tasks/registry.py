"""Datasets and task pairs by name: two dictionaries to read. Nothing here needs PyTorch; `loading` reads the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasum.arguments import checked
from metasum.files import check_folder_name
from metasum.plugins import registrar, taken
from metasum.tasks import embedded, glyphs
from metasum.tasks.pairs import BUILT_IN_PAIRS, Recipe, TaskPair
from metasum.tasks.vision import VISION

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


@checked
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
        raise taken(f"dataset {name!r}", DATASETS[name].source)
    DATASETS[name] = DatasetEntry(loader, summary, source or registrar())


@checked
def register_pair(pair: TaskPair) -> None:
    """Adds a pair with its recipe; its datasets need not be registered yet.

    Raises:
        UsageError: there is such a pair already.
    """
    if pair.name in PAIRS:
        raise taken(f"pair {pair.name!r}", PAIRS[pair.name].source)
    PAIRS[pair.name] = pair if pair.source != "Python" else dataclasses.replace(pair, source=registrar())


def pair_of(target: str, support: str) -> TaskPair:
    """The registered pair of these datasets, or one with the default recipe."""
    return PAIRS.get(f"{target}+{support}", TaskPair(target, support, Recipe()))


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


def is_folder(root: Path, name: str) -> bool:
    """Whether the data root has folders NAME/train and NAME/test."""
    return all((root / name / split).is_dir() for split in ("train", "test"))
