"""What becomes of each tensor, settled before a byte is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from metasum.errors import ArchitectureError
from metasum.weights.merging.checkpoint import Checkpoint
from metasum.weights.merging.dtypes import CODES, FLOATS, TensorInfo
from metasum.weights.merging.kinds import check_apart, must_be_alike, statistics_among
from metasum.weights.merging.layers import Layers


class Part(NamedTuple):
    """One tensor of the result."""

    name: str
    info: TensorInfo
    """As it is written."""
    arithmetic: torch.dtype
    """What it is computed in; uint8 where the first file's bytes are copied."""
    merged: bool
    """Else it is taken from the first file."""
    statistic: bool = False
    """Whether it describes activations; such tensors are averaged, whatever the method."""
    alike: bool = False
    """Whether all files must hold the same: it is taken from the first, and the others are compared with it."""

    @property
    def entries(self) -> int:
        """How many values of the arithmetic it has."""
        return self.info.bytes if self.arithmetic == torch.uint8 else self.info.entries


class Piece(NamedTuple):
    """Neighbouring entries of a part, few enough to hold."""

    part: Part
    start: int
    stop: int


def pieces_of(part: Part, size: int) -> Iterator[Piece]:
    """A part in pieces of at most `size` entries."""
    for start in range(0, part.entries, size):
        yield Piece(part, start, min(start + size, part.entries))


def plan(files: Sequence[Checkpoint], base: Checkpoint | None, layers: Layers, *, dtype: str) -> list[Part]:
    """Every tensor of the result, in the first file's order.

    Args:
        files: what is merged.
        base: what it was trained from, for the methods that need it.
        layers: which parameters are merged; the others are the first file's, whatever the rest holds.
        dtype: of floating-point tensors in the result, "keep" for the files' own.

    Raises:
        ArchitectureError: a tensor that is merged, or a tensor of integers, differs in shape or dtype: the first one is
            named; or tensors mean something only together.
    """
    first = files[0]
    others = [*files[1:], *([] if base is None else [base])]
    names = dict.fromkeys(name for checkpoint in (*files, *others) for name in checkpoint.places)
    for name in names:
        if layers.takes(name):
            _check_alike(name, first, others, floats_may_differ=dtype != "keep")
    floats = {name: place.info.shape for name, place in first.places.items() if place.info.code in FLOATS}
    layers.check(list(floats | first.places))
    check_apart({name: place.info for name, place in first.places.items()}, layers.takes)
    statistics = statistics_among(floats)
    parts = [_part(name, first, others, layers, dtype) for name in first.places]
    return [part._replace(statistic=part.merged and part.name in statistics) for part in parts]


def _check_alike(name: str, first: Checkpoint, others: Sequence[Checkpoint], *, floats_may_differ: bool) -> None:
    mine = _info(first, name)
    for other in others:
        theirs = _info(other, name)
        if mine == theirs:
            continue
        floats = mine is not None and theirs is not None and mine.code in FLOATS and theirs.code in FLOATS
        only_dtype = floats and mine is not None and theirs is not None and mine.shape == theirs.shape
        if only_dtype and floats_may_differ:
            continue
        raise ArchitectureError(
            f"the checkpoints do not fit together: {name!r} is {mine or 'missing'} in {first.path} and "
            f"{theirs or 'missing'} in {other.path}{'; --dtype says what to write then' if only_dtype else ''}."
        )


def _info(checkpoint: Checkpoint, name: str) -> TensorInfo | None:
    place = checkpoint.places.get(name)
    return None if place is None else place.info


def _part(name: str, first: Checkpoint, others: Sequence[Checkpoint], layers: Layers, dtype: str) -> Part:
    info = first.places[name].info
    if info.code not in FLOATS:
        alike = layers.takes(name) and must_be_alike(name, info)
        return Part(name, info, torch.uint8, merged=False, alike=alike)
    written = info if dtype == "keep" else TensorInfo(CODES[getattr(torch, dtype)], info.shape)
    merged = layers.takes(name)
    if not merged and written == info:
        return Part(name, info, torch.uint8, merged=False)
    codes = {info.code, written.code, *(other.places[name].info.code for other in others if merged)}
    return Part(name, written, torch.float64 if "F64" in codes else torch.float32, merged=merged)
