"""What becomes of each tensor, settled before a byte is written."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from metasum.errors import ArchitectureError
from metasum.merging.disk.checkpoint import Checkpoint
from metasum.merging.disk.config import MergeConfig
from metasum.merging.kinds import check_apart, must_be_alike, statistics_among
from metasum.merging.tensors import Part
from metasum.weights.tensor_files.dtypes import CODES, FLOATS, TensorInfo


class Fate(enum.Enum):
    """What becomes of a tensor."""

    MERGED = enum.auto()
    AVERAGED = enum.auto()
    """Whatever the method: it describes activations."""
    TAKEN = enum.auto()
    """From the first file."""
    COMPARED = enum.auto()
    """Taken from the first file, where all the others hold the same; else nothing is merged."""


class Planned(NamedTuple):
    """One tensor of the result."""

    part: Part
    """As it is computed; of bytes where the first file's are copied."""
    info: TensorInfo
    """As it is written."""
    fate: Fate

    def read_from(self, files: int) -> int:
        """How many of so many files it is read from."""
        return 1 if self.fate == Fate.TAKEN else files


def plan(files: Sequence[Checkpoint], base: Checkpoint | None, settings: MergeConfig) -> list[Planned]:
    """Every tensor of the result, in the first file's order.

    Args:
        files: what is merged.
        base: what it was trained from, for the methods that need it.
        settings: which parameters are merged (the others are the first file's, whatever the rest holds), and the
            dtype of floating-point tensors in the result.

    Raises:
        UsageError: a pattern matches no parameter.
        ArchitectureError: a tensor that is merged, or a tensor of integers, differs in shape or dtype: the first one is
            named; or tensors mean something only together.
    """
    first = files[0]
    others = [*files[1:], *([] if base is None else [base])]
    names = dict.fromkeys(name for checkpoint in (*files, *others) for name in checkpoint.places)

    for name in filter(settings.merges, names):
        _check_alike(name, first, others, floats_may_differ=settings.dtype != "keep")
    floats = {name: place.info.shape for name, place in first.places.items() if place.info.code in FLOATS}
    settings.check_patterns(floats | first.places)
    check_apart({name: place.info for name, place in first.places.items()}, settings.merges)
    statistics = statistics_among(floats)
    return [_planned(name, first, others, settings.merges, statistics, settings.dtype) for name in first.places]


def _check_alike(name: str, first: Checkpoint, others: Sequence[Checkpoint], *, floats_may_differ: bool) -> None:
    mine = _info(first, name)
    for other in others:
        theirs = _info(other, name)
        only_dtype = mine and theirs and mine.shape == theirs.shape and {mine.code, theirs.code} <= FLOATS.keys()
        if mine == theirs or (only_dtype and floats_may_differ):
            continue
        raise ArchitectureError(
            f"the checkpoints do not fit together: {name!r} is {mine or 'missing'} in {first.path} and "
            f"{theirs or 'missing'} in {other.path}{'; --dtype says what to write then' if only_dtype else ''}."
        )


def _info(checkpoint: Checkpoint, name: str) -> TensorInfo | None:
    place = checkpoint.places.get(name)
    return None if place is None else place.info


def _planned(
    name: str,
    first: Checkpoint,
    others: Sequence[Checkpoint],
    chosen: Callable[[str], bool],
    statistics: set[str],
    dtype: str,
) -> Planned:
    import torch  # not before every file is known to fit

    info, merged = first.places[name].info, chosen(name)
    written = info if dtype == "keep" or info.code not in FLOATS else TensorInfo(CODES[dtype], info.shape)
    if info.code not in FLOATS or (not merged and written == info):
        fate = Fate.COMPARED if merged and must_be_alike(name, info) else Fate.TAKEN
        return Planned(Part(name, (info.bytes,), torch.uint8), info, fate)
    codes = {info.code, written.code, *(other.places[name].info.code for other in others if merged)}
    fate = Fate.TAKEN if not merged else Fate.AVERAGED if name in statistics else Fate.MERGED
    return Planned(Part(name, info.shape, torch.float64 if "F64" in codes else torch.float32), written, fate)
