"""A run folder to work in: made or found, and this process's alone meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metasum.errors import UsageError
from metasum.files import check_folder_name
from metasum.ownership import owning
from metasum.training.run_folder import RunFolder


def check_name(name: str | None, *, resume: bool | None, overwrite: bool) -> None:
    """Raises UsageError where a run cannot be called so, or is to be continued and replaced at once."""
    if name is not None:
        check_folder_name("--name", name)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite ask for opposite things.")


@contextmanager
def opened(
    path: Path,
    description: Mapping[str, Any],
    found: Callable[[], RunFolder],
    *,
    resume: bool | None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[RunFolder]:
    """The run folder at `path`, for the block to work in; a finished one is not to be worked in, and nobody's.

    Args:
        path: where.
        description: what config.json will hold, where the run is made.
        found: the run that is there, once it has been seen to be the one that is meant (`reopen`).
        resume: continue a run that is there. None: if it is there.
        overwrite: replace a run that is there.
        note: is told what the user should know.

    Raises:
        OccupiedError: another process works there.
        MetaSumError: as `found` and `RunFolder.create` raise it.
    """
    run = finished(path, found, resume=resume)
    if run is not None:
        yield run
        return
    with owning(path, note=note):
        yield found() if _is_there(path, resume) else RunFolder.create(path, description, overwrite=overwrite)


def finished(path: Path, found: Callable[[], RunFolder], *, resume: bool | None) -> RunFolder | None:
    """The run folder at `path` where its run is finished and to be taken as it is; arguments as `opened` has them.

    Raises:
        CheckpointError: there is no run to resume.
        MetaSumError: as `found` raises it.
    """
    there = _is_there(path, resume)
    return found() if there and (RunFolder(path).finished or not path.exists()) else None


def _is_there(path: Path, resume: bool | None) -> bool:
    """Whether a run is to be gone on with."""
    return (path / "config.json").is_file() if resume is None else resume
