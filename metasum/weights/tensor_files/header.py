"""The safetensors format: eight bytes that say how long the header is, the header (JSON), the tensors' bytes.

See "Format" in the README of huggingface/safetensors. Written out here, since safetensors itself reads through a
memory map, whose pages count as this process's memory, and writes only what is in memory whole.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from metasum.errors import CheckpointError
from metasum.weights.tensor_files.dtypes import DTYPES, TensorInfo

LONGEST = 100_000_000  # bytes of a header; safetensors reads none that is longer


class Header(NamedTuple):
    """What a file holds, and where."""

    tensors: dict[str, TensorInfo]
    """In the order of their bytes."""
    offsets: dict[str, int]
    """Of each tensor's first byte, from the beginning of the file."""
    metadata: dict[str, str]


def read_header(file: BinaryIO, size: int) -> Header:
    """The header of a file of `size` bytes.

    Raises:
        CheckpointError: it is damaged, or does not describe these bytes; the sentence starts in the middle.
    """
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 0 < length <= min(LONGEST, size - 8):
        raise CheckpointError(f"it is {size} bytes long, and its header would be {length}")
    try:
        entries = json.loads(file.read(length).decode())
        metadata = {str(key): str(value) for key, value in entries.pop("__metadata__", {}).items()}
        spans = {name: _span(name, entry) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:  # no JSON, no object, no dtype
        raise CheckpointError(f"its header makes no sense ({error})") from error
    spans = dict(sorted(spans.items(), key=lambda item: item[1][1]))  # headers are in any order; files have one
    _check_spans({name: span for name, (_, span) in spans.items()}, size - 8 - length)
    tensors = {name: info for name, (info, _) in spans.items()}
    return Header(tensors, {name: 8 + length + span[0] for name, (_, span) in spans.items()}, metadata)


def _span(name: str, entry: Mapping[str, Any]) -> tuple[TensorInfo, tuple[int, int]]:
    code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if code not in DTYPES:
        raise CheckpointError(f"its {name!r} is of dtype {code}, which cannot be merged")
    numbers = [*shape, begin, end]
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 0 for number in numbers):
        raise ValueError(f"shape or offsets of {name!r}")
    info = TensorInfo(code, tuple(shape))
    if end - begin != info.bytes:
        raise CheckpointError(f"its {name!r}, {info}, has {end - begin} bytes in place of {info.bytes}")
    return info, (begin, end)


def _check_spans(spans: Mapping[str, tuple[int, int]], available: int) -> None:
    """Raises CheckpointError unless the tensors lie side by side and fill the file."""
    at = 0
    for name, (begin, end) in spans.items():
        if begin != at:
            raise CheckpointError(f"its {name!r} begins at byte {begin} of the data in place of {at}")
        at = end
    if at > available:
        raise CheckpointError(f"it is truncated: {at} bytes of data are announced, and {available} are there")
    if at < available:
        raise CheckpointError(f"{available - at} bytes follow its last tensor")


def write_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """A header for `tensors`, and each one's offset from the beginning of the file.

    Tensors of large items come first, so that each lies at a multiple of its item's size.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at, spans = 0, {}
    for name in sorted(tensors, key=lambda name: -tensors[name].itemsize):
        info = tensors[name]
        entries[name] = {"dtype": info.code, "shape": list(info.shape), "data_offsets": [at, at + info.bytes]}
        spans[name], at = at, at + info.bytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, {name: 8 + len(text) + begin for name, begin in spans.items()}
