"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metasum.errors import CheckpointError, StorageError, UsageError, reason, shown
from metasum.locks import is_at, lock

LONGEST_NAME = 255  # bytes, on every usual file system
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def check_folder_name(kind: str, name: str) -> None:
    """Raises UsageError where `name` could not be (part of) one folder's name on any system."""
    odd = name.startswith(".") or any(each in "/\\:" for each in name) or not name.isprintable()
    if not name or odd or len(name.encode()) > LONGEST_NAME:
        raise UsageError(f"{kind} {shown(name)} does not work: it becomes part of a folder's name.")


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are missing; raises StorageError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror or error}.") from error


def cache_folder() -> Path:
    """Where things are remembered: METASUM_CACHE, else `metasum` in the user's cache folder (XDG_CACHE_HOME)."""
    own = os.environ.get("METASUM_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metasum"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary file beside `path`; renames it to `path` when the block ends well, else removes it.

    The file is new, empty, of a name that nobody can guess, and has the rights that a plain `open` would give it. While
    the block works, it is locked, so that what a killed process leaves can be told from it; the next one that writes
    `path` removes that.

    Raises:
        StorageError: the file could not be written (a full disk, a missing right). `path` is as it was.
    """
    with _told_as(path):
        remove_leftovers(path.parent, path.name)
        partial, handle = _new_file(path)
    try:
        with _told_as(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def _told_as(path: Path) -> Iterator[None]:
    """An error of the system, said of `path` and not of its temporary file."""
    try:
        yield
    except OSError as error:
        other = isinstance(error.filename, str) and path.name not in error.filename
        what = f"{error.filename}" if other else f"cannot write {path}"  # in the block, others may be read or written
        raise StorageError(f"{what}: {error.strerror or error}") from error


def _new_file(path: Path) -> tuple[Path, int | None]:
    """A temporary file for `path`, and its handle, which keeps the lock; None where there are no locks."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        try:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666)
        except FileExistsError:
            continue
        if lock(handle, wait=True) is None:
            os.close(handle)
            return partial, None
        if is_at(handle, partial):
            return partial, handle
        os.close(handle)  # between the two lines above, somebody took it for a leftover


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Removes what killed processes left half-written of the file `name` [default: of all files] in a folder.

    A file that is still being written is locked, and stays; so does every file where there are no locks.
    """
    for partial in folder.glob(f".{glob.escape(name)}.*.partial" if name else ".*.partial"):
        with contextlib.suppress(OSError):
            handle = os.open(partial, os.O_RDWR | NO_LINK)
            try:
                if lock(handle):
                    partial.unlink()
            finally:
                os.close(handle)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong in the block, since a file holds something else than it should, is said of the file.

    Raises:
        CheckpointError: in place of any error that names no file, and of Python's own errors about values.
    """
    try:
        yield
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or of another version ({reason(error)}).") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({reason(error)}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged (it holds no object).")
    return value


def write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, **how: Any) -> str:
    """`value` as JSON, by which everything is written that others read.

    A number that is NaN or infinite is null: JSON has no word for it, and programs in other languages refuse Python's.

    Args:
        value: dictionaries, lists, tuples, numbers, text and None.
        how: as `json.dumps` takes it.
    """
    try:
        return json.dumps(value, allow_nan=False, **how)
    except ValueError:
        return json.dumps(_with_null(value), allow_nan=False, **how)


def _with_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_null(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
