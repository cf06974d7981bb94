"""A safetensors file that is written in place, piece by piece, by several threads."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metasum.files import NO_LINK, replacing
from metasum.weights.tensor_files.dtypes import TensorInfo
from metasum.weights.tensor_files.header import write_header

if TYPE_CHECKING:
    from torch import Tensor

STRETCH = 128 * 2**20  # bytes
_turn = threading.Lock()


class Output:
    """A file whose header is written, and whose tensors are to come."""

    def __init__(self, handle: int, offsets: Mapping[str, int]) -> None:
        self._handle, self._offsets, self._fresh = handle, offsets, 0

    def write(self, name: str, start: int, data: Tensor) -> None:
        """Writes `data` (uint8) to the tensor's bytes from `start` on; raises OSError where that fails."""
        _write_at(self._handle, data.numpy().data, self._offsets[name] + start)
        self._fresh += len(data)  # a count that another thread spoils now and then is good enough
        if self._fresh >= STRETCH:
            self._fresh = 0
            _let_go(self._handle)


@contextmanager
def writing(path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> Iterator[Output]:
    """The file `path`, for the block to fill; it appears when the block ends well, else nothing is left.

    Raises:
        StorageError: it could not be written. Room for all of it is asked for at once.
    """
    header, offsets = write_header(tensors, metadata)
    with replacing(path) as partial:
        handle = os.open(partial, os.O_RDWR | NO_LINK)
        try:
            _reserve(handle, len(header) + sum(info.bytes for info in tensors.values()))
            _write_at(handle, memoryview(header), 0)
            yield Output(handle, offsets)
        finally:
            os.close(handle)


def _reserve(handle: int, size: int) -> None:
    try:
        os.posix_fallocate(handle, 0, size)
    except (AttributeError, OSError) as error:  # not on this system, not on this file system
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(handle, size)


def _let_go(handle: int) -> None:
    """Has the kernel begin to put the file on the disk, and forget what is there; waits for neither.

    A large result would else fill all free memory with pages that nobody reads soon, which is slow to get.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_at(handle: int, view: memoryview, offset: int) -> None:
    while view:
        if hasattr(os, "pwrite"):
            done = os.pwrite(handle, view, offset)
        else:  # Windows
            with _turn:
                os.lseek(handle, offset, os.SEEK_SET)
                done = os.write(handle, view)
        view, offset = view[done:], offset + done
