"""What tensors in files are made of, as safetensors spells it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

FLOATS: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Those that are merged."""

OTHERS: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""Those that are taken from the first file."""

DTYPES = FLOATS | OTHERS
WRITTEN: dict[str, torch.dtype] = DTYPES | {"C64": torch.complex64}
"""Those that files can hold; complex numbers are in no merge."""
CODES = {dtype: code for code, dtype in DTYPES.items()}


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
        return f"{list(self.shape)} {str(WRITTEN[self.code]).removeprefix('torch.')}"
