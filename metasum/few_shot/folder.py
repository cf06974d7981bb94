"""The run folders of few-shot learning: made or found, and compared with what is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from metasum.errors import CheckpointError
from metasum.files import read_json, reading
from metasum.run.description import FORMAT, describe, reopen
from metasum.tasks.few_shot import FewShotDataset
from metasum.training.opening import opened
from metasum.training.progress import Display
from metasum.training.run_folder import RunFolder


@contextlib.contextmanager
def opened_run(
    path: Path, settings: Mapping[str, Any], dataset: FewShotDataset, display: Display, **start: str
) -> Iterator[RunFolder]:
    """A run's folder, made or found, for a block to work in.

    `start` is "start_checksum", of the weights that it begins with, where these were trained before.

    Raises:
        OccupiedError: another process works there.
        UsageError: it holds a run of other settings.
    """
    description = _description(settings, dataset, start)
    found = partial(reopen, path, description, completed=_as_written)
    with opened(path, description, found, resume=None, note=display.note) as run:
        yield run


def check_run(
    path: Path, settings: Mapping[str, Any], dataset: FewShotDataset, *, open_ones: Collection[str] = ()
) -> None:
    """Raises UsageError where a run of other settings, or on other data, has this folder already.

    What it started from, and what the settings named in `open_ones` will be, is not known before other cells have
    run, and is compared when the run is opened.
    """
    if (path / "config.json").is_file():
        found = read_json(path / "config.json")
        with reading(path / "config.json"):
            kept = _as_written(found)
        settings = {**settings, **{name: kept[name] for name in open_ones if name in kept}}
        start = {"start_checksum": found.get("start_checksum")}
        reopen(path, _description(settings, dataset, start), completed=_as_written)


def _description(settings: Mapping[str, Any], dataset: FewShotDataset, start: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds."""
    data = {"name": dataset.name, "source": dataset.source, "checksum": dataset.checksum}
    return describe(settings, data, **start)


def _as_written(description: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a run's config.json, which have been the same since format 1."""
    number, settings = description.get("format", 1), description.get("settings")
    if not isinstance(number, int) or number > FORMAT:
        raise CheckpointError(f"these settings are of format {number!r}, of a later version of metasum.")
    if not isinstance(settings, Mapping) or "dataset" not in settings:
        raise CheckpointError("these are not the settings of a few-shot run.")
    return dict(settings)
