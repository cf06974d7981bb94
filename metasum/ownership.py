"""A run folder belongs to one process at a time: the one that holds its lock, which ends with that process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from metasum.errors import OccupiedError, StorageError
from metasum.files import NO_LINK, remove_leftovers
from metasum.locks import is_at, lock

T = TypeVar("T")
LOCK = ".lock"
ATTEMPTS, PAUSE = 5, 0.05  # seconds between attempts: who only looks whether a lock is free holds it for a moment
LOOK = 1.0  # seconds between two looks at a folder that is waited for


@contextmanager
def owning(folder: Path, *, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """For the block, `folder` is this process's alone; what a killed process left half-written in it is removed.

    The folder is made where it is missing, and removed where it is empty in the end.

    Args:
        folder: of a run.
        note: is told where the file system has no locks, so that nobody watches over it.

    Raises:
        OccupiedError: another process owns it. Nothing is changed.
        StorageError: the folder cannot be made, or nothing can be written there.
    """
    handle = _taken(folder, note)
    try:
        remove_leftovers(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_at(handle, folder / LOCK):  # not where the folder was moved away meanwhile
                (folder / LOCK).unlink()
                folder.rmdir()  # fails where something is in it, as it should
        os.close(handle)


def is_occupied(folder: Path) -> bool:
    """Whether a process works in a run folder just now."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | NO_LINK)
    except OSError:
        return False
    try:
        return lock(handle, shared=True) is False
    finally:
        os.close(handle)


def in_turn(work: Callable[[], T], note: Callable[[str], None]) -> T:
    """What `work` returns; where another process owns a folder that it needs, once that one has let go of it.

    Args:
        work: is called anew after each wait; it raises OccupiedError before it has changed anything.
        note: is told who is waited for.
    """
    while True:
        try:
            return work()
        except OccupiedError as error:
            note(f"{error.owner} works in {error.folder}; waiting for it")
            while is_occupied(error.folder):
                time.sleep(LOOK)


def _taken(folder: Path, note: Callable[[str], None]) -> int:
    """The open lock file, which is ours."""
    path, owner = folder / LOCK, "another process"
    for attempt in range(ATTEMPTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if isinstance(error, FileExistsError) and (folder.is_dir() or not os.path.lexists(folder)):
                continue  # its owner failed, and removed the folder that it had made
            raise StorageError(f"cannot make the run folder {folder}: {error.strerror or error}.") from error
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        except FileNotFoundError:
            continue  # likewise
        except OSError as error:
            raise StorageError(f"cannot write into {folder}: {error.strerror or error}.") from error
        ours = lock(handle)
        if ours is None:
            note(f"the file system of {folder} has no locks; see to it that no other process works there")
        if ours is not False and is_at(handle, path):
            _sign(handle)
            return handle
        owner = _owner(handle)
        os.close(handle)
        if attempt < ATTEMPTS - 1:
            time.sleep(PAUSE)
    raise OccupiedError(folder, owner)


def _sign(handle: int) -> None:
    """Writes into the lock file who owns it."""
    with contextlib.suppress(OSError):  # a full disk: whatever the run has to write will say so
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())


def _owner(handle: int) -> str:
    """Who wrote into the lock file."""
    try:
        told = json.loads(os.read(handle, 1000))
        return f"process {int(told['pid'])} on {told['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken it
        return "another process"
