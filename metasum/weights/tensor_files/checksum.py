"""A weights file's checksum, in its own metadata: a flipped bit anywhere in it is noticed where the file is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from metasum.errors import CheckpointError
from metasum.files import json_text
from metasum.weights.tensor_files.dtypes import TensorInfo
from metasum.weights.tensor_files.header import Header

CHECKSUM = "metasum_sha256"
"""Its name among the metadata. Files of earlier versions and of other programs have none, and are read as they are."""
PIECE = 1 << 20  # bytes that are read at once


def checksum_of(
    metadata: Mapping[str, str], tensors: Mapping[str, TensorInfo], read: Callable[[str], Iterable[Any]]
) -> str:
    """SHA-256 over metadata, names, dtypes, shapes and values, in hexadecimal digits.

    Args:
        metadata: of the file; a checksum among them is left out.
        tensors: what each is, in any order.
        read: from a tensor's name to its bytes, in pieces.
    """
    own = {name: value for name, value in metadata.items() if name != CHECKSUM}
    digest = hashlib.sha256(json_text(own, sort_keys=True).encode())
    for name in sorted(tensors):
        info = tensors[name]
        digest.update(json_text([name, info.code, list(info.shape)]).encode())
        for piece in read(name):
            digest.update(piece)
    return digest.hexdigest()


def compare(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, TensorInfo], read: Callable[[str], Iterable[Any]]
) -> None:
    """Raises CheckpointError where the metadata have a checksum that is not that of the file; nothing is read else."""
    if CHECKSUM in metadata and metadata[CHECKSUM] != checksum_of(metadata, tensors, read):
        raise CheckpointError(
            f"{path} is damaged: its checksum is not that of what it holds; take a copy, or train anew."
        )


def compare_file(path: Path, file: BinaryIO, header: Header) -> None:
    """The same of an open file, which is read once from end to end, piece by piece."""

    def read(name: str) -> Iterable[bytes]:
        file.seek(header.offsets[name])
        left = header.tensors[name].bytes
        while left and (piece := file.read(min(PIECE, left))):
            left -= len(piece)
            yield piece

    compare(path, header.metadata, header.tensors, read)
