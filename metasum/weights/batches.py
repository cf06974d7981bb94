"""Batches as loaders give them, taken apart, cut and moved.

A batch is a tensor of inputs; or a tuple or list, its last entry the labels (a single entry: the inputs); or a
dictionary with its labels under one of `LABELS`. What is left is what the network is called with: by position, or a
dictionary's by name (where it has one entry, by position: whatever the network calls it).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from metasum.errors import UsageError

LABELS = ("labels", "label", "targets", "target", "y")
"""Names of labels, in dictionaries and in .npz files; the first that is there counts."""
PIECE = 256  # inputs that are run at once, where they come in one tensor

Forward: TypeAlias = Callable[[nn.Module, Any], Any]
"""(network, batch) to logits, or to (logits, labels), for what is unusual; the batch is whole, on the network's
device."""


class Asked(NamedTuple):
    """A batch, taken apart."""

    inputs: Any
    """What the network is called with: a tensor, a tuple of inputs by position or a dictionary by name; with a
    `Forward` the whole batch."""
    labels: Any
    """None where there are none."""

    @property
    def size(self) -> int:
        """How many inputs there are."""
        return size_of(self.inputs)


class Batches:
    """A loader that can be read again and again, batch by batch, on one device.

    Args:
        source: a DataLoader or another iterable of batches (a list or tuple is one); a dataset; or one batch, a tensor
            or a dictionary.
        what: to call it in errors [default: what its own attribute `what` says, where it has one].
        forward: with which its batches are asked about.
        device: where they are put.

    Raises:
        UsageError: (while it is read) it has no batch, or is an iterator that has been read before.
    """

    def __init__(
        self, source: Any, *, what: str = "images", forward: Forward | None = None, device: torch.device | None = None
    ) -> None:
        self.what, self._forward, self._device = str(getattr(source, "what", what)), forward, device
        self._source = _loader(source, what)
        self._once, self._read = isinstance(self._source, Iterator), False

    def __iter__(self) -> Iterator[Asked]:
        if self._once and self._read:
            raise UsageError(
                f"{self.what} is an iterator, which is empty after one reading, and more than one is needed: give a "
                "DataLoader or a list of batches."
            )
        self._read, empty = True, True
        for batch in self._source:
            empty = False
            yield asked(moved(batch, self._device), self._forward)
        if empty:
            raise UsageError(f"{self.what}: there is nothing, and at least one batch is needed.")

    @property
    def inputs(self) -> Iterable[Any]:
        """The batches without their labels, read anew each time."""
        return _Inputs(self)


class _Inputs(Iterable[Any]):
    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return (batch.inputs for batch in self._batches)


class Together(Iterable[Any]):
    """The batches of several loaders, one loader after the other."""

    def __init__(self, sources: Iterable[Any], *, what: str = "images") -> None:
        self.sources = list(sources)
        self._loaders = [_loader(source, what) for source in self.sources]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self._loaders)


def _loader(source: Any, what: str) -> Iterable[Any]:
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        return DataLoader(source, batch_size=PIECE)
    if isinstance(source, Tensor | Mapping):
        return pieces(source, PIECE)
    if not isinstance(source, Iterable):
        raise UsageError(f"{what} is a {type(source).__name__}, and should be a DataLoader or a list of batches.")
    return source


def pieces(batch: Any, size: int) -> list[Any]:
    """A batch cut into several, each of at most `size` inputs."""
    return [cut(batch, start, start + size) for start in range(0, size_of(batch), size)]


def limited(batches: Iterable[Any], count: int, *, size: int | None = None) -> Iterator[Any]:
    """The first `count` inputs, in batches of at most `size` [default: as they come]; no more batches are read."""
    left = count
    for batch in batches:
        own = cut(batch, 0, left)
        yield from (own,) if size is None else pieces(own, size)
        left -= size_of(own)
        if left <= 0:
            return


def asked(batch: Any, forward: Forward | None = None) -> Asked:
    """What of a batch the network is called with, and the labels; a `forward` is given all of it."""
    inputs, labels = batch, None
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        inputs = {key: value for key, value in batch.items() if key != name}
        labels = None if name is None else batch[name]
        if len(inputs) == 1:
            (inputs,) = inputs.values()
    elif isinstance(batch, tuple | list) and batch:
        entries = tuple(batch)
        own, labels = (entries[:-1], entries[-1]) if len(entries) > 1 else (entries, None)
        inputs = own[0] if len(own) == 1 else own
    return Asked(inputs if forward is None else batch, labels)


def moved(batch: Any, device: torch.device | None) -> Any:
    """The batch with its tensors on `device` [None: where they are]; of plain dictionaries, lists and tuples."""
    if isinstance(batch, Tensor):
        return batch if device is None else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        own = [moved(value, device) for value in batch]
        return own if isinstance(batch, list) else tuple(own)
    return batch


def cut(batch: Any, start: int, stop: int) -> Any:
    """Inputs `start` to `stop` of a batch; what has another length than its first tensor stays whole."""
    size = size_of(batch)
    if start <= 0 and stop >= size:
        return batch

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[start:stop] if value.ndim and len(value) == size else value
        if isinstance(value, Mapping):
            return {name: part(own) for name, own in value.items()}
        if isinstance(value, tuple | list):
            if isinstance(value, list) and len(value) == size and not any(isinstance(own, Tensor) for own in value):
                return value[start:stop]
            return type(value)(part(own) for own in value)
        return value

    return part(batch)


def size_of(batch: Any) -> int:
    """How many inputs there are in a batch: the length of its first tensor; raises UsageError where it holds none."""
    first = next(_tensors(batch), None)
    if first is None:
        raise UsageError(f"a batch holds no tensor, but {described(batch)}.")
    return len(first)


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Those with a dimension, in their order."""
    if isinstance(batch, Tensor):
        if batch.ndim:
            yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(value)


def described(value: Any) -> str:
    """Shapes of a batch in words: "float32 [16, 3, 32, 32]"."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {described(own)}" for name, own in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(described, value[:4])) + (", …" if len(value) > 4 else "") + ")"
    return type(value).__name__


def device_of(network: nn.Module) -> torch.device:
    """Where its first parameter or buffer is; the CPU without any."""
    for tensors in (network.parameters(), network.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")
