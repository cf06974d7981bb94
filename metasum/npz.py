""".npz files are looked at before they are inflated: a small file can hold more than there is memory."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from metasum.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np

FREE = 256 * 2**20  # bytes for which nobody asks how much memory there is


def announced(path: Path, file: BinaryIO) -> dict[str, np.ndarray[Any, Any]]:
    """What the arrays of a .npz file are, read from their headers: each of its shape and dtype, without memory.

    Args:
        path: of the file, for the error.
        file: open, and left where it was.

    Raises:
        DatasetError: an array would be larger than what is there of it.
        Exception: the file is damaged, or is no .npz file; zipfile and numpy raise a dozen kinds.
    """
    import numpy as np

    found, place = {}, file.tell()
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as opened:
                version = np.lib.format.read_magic(opened)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(opened)
            like = np.broadcast_to(np.empty((), dtype), shape)
            if not dtype.hasobject and like.nbytes > member.file_size:
                raise DatasetError(
                    f"{path} is damaged: {member.filename} would have {like.nbytes:,} bytes, and {member.file_size:,} "
                    "are there."
                )
            found[member.filename.removesuffix(".npy")] = like
    file.seek(place)
    return found


def check_size(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], wanted: Collection[str]) -> None:
    """Raises DatasetError where the wanted ones of `announced` arrays are more than there is memory."""
    size = sum(array.nbytes for name, array in arrays.items() if name in wanted)
    if size <= FREE:
        return
    import psutil

    free = psutil.virtual_memory().available
    if size > free:
        raise DatasetError(
            f"{path} holds arrays of {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free."
        )
