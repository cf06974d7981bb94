"""PyTorch's own files: dictionaries of tensors, read without running anything that they hold."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metasum.errors import CheckpointError, reason
from metasum.weights.tensor_files.archive import check_records
from metasum.weights.tensor_files.dtypes import DTYPES, TensorInfo, code_of
from metasum.weights.tensor_files.wrapping import unwrapped


def load_pytorch(path: Path) -> tuple[dict[str, TensorInfo], dict[str, Tensor], list[str]]:
    """The tensors of a dictionary, or of the one that a training script put them in; their bytes stay in the file.

    Returns:
        What each is, the tensors, mapped, and the keys under which they lay ("state_dict", "model", …).

    Raises:
        CheckpointError: it is damaged, or holds something other than named tensors.
    """
    try:
        check_records(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below
            value = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, and is not read: that could run foreign code. Save its state_dict by "
            "itself."
        ) from error
    except Exception as error:  # a torn pickle raises whatever its next byte happens to mean
        raise CheckpointError(f"{path} is damaged or is not a PyTorch file ({reason(error)}).") from error
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} holds no dictionary of tensors.")
    value, keys = unwrapped(value)
    tensors = {name: tensor.detach() if isinstance(tensor, Tensor) else tensor for name, tensor in value.items()}
    return {name: _info(path, name, tensor) for name, tensor in tensors.items()}, tensors, keys


def _info(path: Path, name: Any, tensor: Any) -> TensorInfo:
    if not isinstance(name, str) or name == "__metadata__":
        raise CheckpointError(f"{path} has an entry {name!r}, which is no tensor's name.")
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"{path} has an entry {name!r} that is no tensor; save its state_dict by itself.")
    code = code_of(tensor.dtype)
    if code not in DTYPES or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"{path}: {name!r} is {tensor.layout}, {tensor.dtype}, which cannot be merged.")
    return TensorInfo(code, tuple(tensor.shape))


def locate(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Offsets in the file of those tensors whose bytes lie there one after another, as the kernel has mapped it.

    Reading a file leaves nothing behind; reading through a map makes its pages this process's. Without Linux's /proc,
    nothing is located.
    """
    if not sys.platform.startswith("linux"):
        return {}
    inode, spans = str(path.stat().st_ino), []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, offset, _, number, *_ = line.split(maxsplit=5)
        if number == inode:
            first, last = (int(word, 16) for word in addresses.split("-"))
            spans.append((first, last, int(offset, 16)))
    places = {}
    for name, tensor in tensors.items():
        begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        inside = [offset + begin - first for first, last, offset in spans if first <= begin and end <= last]
        if inside and tensor.is_contiguous():
            places[name] = inside[0]
    return places


def bytes_of(tensor: Tensor, start: int, count: int) -> Tensor:
    """Bytes `start` to `start + count` of a tensor laid out row by row, copied from no more rows than hold them."""
    if tensor.is_contiguous():
        return tensor.reshape(-1).view(torch.uint8)[start : start + count]
    row = tensor[0].nbytes
    rows = tensor[start // row : -(-(start + count) // row)].contiguous()
    begin = start - start // row * row
    return rows.view(-1).view(torch.uint8)[begin : begin + count]
