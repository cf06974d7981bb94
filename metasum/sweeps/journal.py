"""A sweep's journal on a disk that may be full, and of processes that may be killed: a torn line harms nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from metasum.errors import StorageError, reason

CHUNK = 2**16  # bytes that are looked through at once for the end of the last whole line


class Journal(JournalFileBackend):
    """Optuna's journal file, whose last line may be torn.

    Optuna passes over a last line without an end, and appends to it: what another process then writes is part of a
    line that nobody can read, and the sweep is lost. Here such a line is cut off before something is appended, and
    nothing is left of what could not be written whole.

    Args:
        path: of the file, which is made where it is missing.

    Raises:
        StorageError: (later on) it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self.lock)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        try:
            yield from super().read_logs(log_number_from)
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read the sweep's journal {self.path}: {reason(error)}.") from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            self.lock.acquire()
            try:
                with self.path.open("r+b", buffering=0) as file:
                    _append(file, text.encode())
            finally:
                self.lock.release()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}.") from error


def holds_a_line(path: Path) -> bool:
    """Whether a journal tells anything: it is there, and not only a torn line."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _end_of_lines(file) > 0


def _append(file: BinaryIO, data: bytes) -> None:
    """Writes behind the last whole line, all or nothing."""
    end = _end_of_lines(file)
    file.truncate(end)
    file.seek(end)
    try:
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise


def _end_of_lines(file: BinaryIO) -> int:
    """The place behind the last end of a line; 0 without one."""
    place = file.seek(0, os.SEEK_END)
    while place:
        start = max(0, place - CHUNK)
        file.seek(start)
        found = file.read(place - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        place = start
    return 0
