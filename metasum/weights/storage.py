"""Weights on disk: safetensors, which hold numbers and nothing that could run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from metasum.errors import CheckpointError, StorageError
from metasum.weights.parameters import buffers_of, check_same_architecture, parameters_of
from metasum.weights.tensor_files.checksum import CHECKSUM, checksum_of, compare
from metasum.weights.tensor_files.dtypes import WRITTEN, TensorInfo, code_of, dtype_of
from metasum.weights.tensor_files.output import writing


def save_weights(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors to a .safetensors file, with their checksum among its metadata, whole or not at all.

    Raises:
        StorageError: the file could not be written, or a tensor is of a kind that such files do not hold.
    """
    unheld = next((name for name, tensor in tensors.items() if code_of(tensor.dtype) is None), None)
    if unheld is not None:
        raise StorageError(f"cannot write {path}: {unheld!r} is {tensors[unheld].dtype}, which such files do not hold.")
    infos = _infos(tensors)
    told = dict(metadata or {})
    told[CHECKSUM] = checksum_of(told, infos, lambda name: [_bytes(tensors[name]).numpy()])
    with writing(path, infos, told) as output:
        for name, tensor in tensors.items():
            output.write(name, 0, _bytes(tensor))


def _infos(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    coded = {name: (code_of(tensor.dtype), tensor) for name, tensor in tensors.items()}
    return {name: TensorInfo(code, tuple(tensor.shape)) for name, (code, tensor) in coded.items() if code is not None}


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file, on the CPU.

    Raises:
        CheckpointError: there is no such file, it is not a whole safetensors file, or its checksum is wrong.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        metadata = file.metadata() or {}
    if CHECKSUM in metadata:
        compare(path, metadata, _infos(tensors), lambda name: [_bytes(tensors[name]).numpy()])
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says about itself; raises CheckpointError as `load_weights` does."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def shapes_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file without their values, which are not read: on PyTorch's device "meta".

    Raises:
        CheckpointError: there is no such file, or it is not a whole safetensors file.
    """
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        found = {name: (each.get_shape(), each.get_dtype()) for name, each in slices.items()}
    dtypes = {code: dtype_of(code) for _, code in found.values() if code in WRITTEN}
    return {name: torch.empty(shape, dtype=dtypes.get(code), device="meta") for name, (shape, code) in found.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or is not a safetensors file ({error}).") from error


def load_into(network: nn.Module, path: Path) -> None:
    """Gives `network` the parameters in a file, and the buffers where the file has them.

    Raises:
        CheckpointError: the file is missing or damaged.
        ArchitectureError: its parameters are not those of `network`; the first difference is named.
    """
    tensors, own = load_weights(path), network.state_dict(keep_vars=True)
    check_like(network, tensors, path)
    with torch.no_grad():
        for name in tensors:
            own[name].copy_(tensors[name])


def load_like(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The parameters in a file, where `network` has its own, which stay as they are; raises as `load_into` does."""
    tensors = load_weights(path)
    check_like(network, tensors, path)
    return {name: tensors[name].to(own.device) for name, own in parameters_of(network).items()}


def check_like(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises ArchitectureError where the tensors in a file are not those of `network`; buffers may be left out."""
    own, buffers = parameters_of(network), buffers_of(network)
    given = {name: tensor for name, tensor in tensors.items() if name not in buffers}
    names = ["the network asked for", str(path)]
    check_same_architecture([own, given], names=names)
    kept = {name: buffer for name, buffer in buffers.items() if name in tensors}
    check_same_architecture([kept, {name: tensors[name] for name in kept}], names=names)
