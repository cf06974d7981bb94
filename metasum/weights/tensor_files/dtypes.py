"""What tensors in files are made of, as safetensors spells it: without PyTorch, which takes seconds to import."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Stored(NamedTuple):
    """A dtype in a file."""

    name: str
    """PyTorch's."""
    itemsize: int
    """Bytes of one value."""


FLOATS = {
    "F64": Stored("float64", 8),
    "F32": Stored("float32", 4),
    "F16": Stored("float16", 2),
    "BF16": Stored("bfloat16", 2),
    "F8_E4M3": Stored("float8_e4m3fn", 1),
    "F8_E5M2": Stored("float8_e5m2", 1),
}
"""Those that are merged."""
OTHERS = {
    "BOOL": Stored("bool", 1),
    "U8": Stored("uint8", 1),
    "I8": Stored("int8", 1),
    "I16": Stored("int16", 2),
    "U16": Stored("uint16", 2),
    "I32": Stored("int32", 4),
    "U32": Stored("uint32", 4),
    "I64": Stored("int64", 8),
    "U64": Stored("uint64", 8),
}
"""Those that are taken from the first file."""
DTYPES = FLOATS | OTHERS
WRITTEN = DTYPES | {"C64": Stored("complex64", 8)}
"""Those that files can hold; complex numbers are in no merge."""
CODES = {stored.name: code for code, stored in WRITTEN.items()}
"""By PyTorch's names."""


def dtype_of(code: str) -> torch.dtype:
    """PyTorch's, for one of the codes in `WRITTEN`."""
    import torch

    found: torch.dtype = getattr(torch, WRITTEN[code].name)
    return found


def code_of(dtype: torch.dtype) -> str | None:
    """The code of one of PyTorch's; None where files cannot hold it."""
    return CODES.get(str(dtype).removeprefix("torch."))


class TensorInfo(NamedTuple):
    """What a file says about one of its tensors."""

    code: str
    """Its dtype: "F32", "BF16", "I64", …"""
    shape: tuple[int, ...]

    @property
    def entries(self) -> int:
        """How many values it has; 1 for a tensor of no dimensions."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return WRITTEN[self.code].itemsize

    @property
    def bytes(self) -> int:
        return self.entries * self.itemsize

    def __str__(self) -> str:
        return f"{list(self.shape)} {WRITTEN[self.code].name}"
