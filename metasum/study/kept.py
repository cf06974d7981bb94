"""Data that several runs of a study read is loaded once in a process, and let go when the study is over."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from metasum.run.request import Request
from metasum.tasks.loading import load_dataset
from metasum.types import Dataset, Sides

T = TypeVar("T")
_kept: dict[Hashable, Any] = {}


@contextmanager
def data_kept() -> Iterator[None]:
    """For the block, what was loaded stays in memory; a cell's own process ends anyway."""
    try:
        yield
    finally:
        _kept.clear()


def kept(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returned when it was called for this key."""
    if key not in _kept:
        _kept[key] = make()
    found: T = _kept[key]
    return found


def dataset(name: str, request: Request, *, download: bool) -> Dataset:
    """The dataset called so, from where the request says that data lies; raises as `load_dataset` does."""
    root = Path(request["data_root"])
    return kept((name, root), lambda: load_dataset(name, root=root, download=download))


def pair(request: Request, *, download: bool) -> Sides[Dataset]:
    """The target's and the support's dataset."""
    return Sides(*(dataset(request[side], request, download=download) for side in Sides._fields))
