"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metasum.errors import CheckpointError, StorageError, UsageError


def check_folder_name(kind: str, name: str) -> None:
    """Raises UsageError where `name` could not be (part of) one folder's name on any system."""
    if not name or name.startswith(".") or any(character in name for character in "/\\:\0"):
        raise UsageError(f"{kind} {name!r} does not work: it becomes part of a folder's name.")


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are missing; raises StorageError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror or error}.") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it to `path` when the block ends well, else removes it.

    Raises:
        StorageError: the file could not be written (a full disk, a missing right). `path` is as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged (it holds no object).")
    return value


def write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
