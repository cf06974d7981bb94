"""A model's tensors on disk, in one file or in several, read piece by piece."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from metasum.errors import CheckpointError
from metasum.files import read_json
from metasum.weights.tensor_files.checksum import CHECKSUM, compare_file
from metasum.weights.tensor_files.dtypes import TensorInfo, dtype_of
from metasum.weights.tensor_files.header import read_header
from metasum.weights.tensor_files.wrapping import without_prefix

if TYPE_CHECKING:
    from torch import Tensor

_turn = threading.Lock()


class Place(NamedTuple):
    """Where a tensor's bytes are."""

    info: TensorInfo
    path: Path
    file: BinaryIO
    offset: int
    """Of its first byte in `file`."""
    mapped: Tensor | None
    """The tensor itself where its bytes do not lie in the file one after another."""

    def read(self, start: int, into: Tensor) -> None:
        """Fills `into` (uint8) with the tensor's bytes from `start` on.

        Raises:
            CheckpointError: they cannot be read.
        """
        if self.mapped is not None:
            from metasum.merging.disk.pytorch import bytes_of

            into.copy_(bytes_of(self.mapped, start, len(into)))
            return
        view = into.numpy().data
        try:
            while view:
                done = _read_at(self.file, view, self.offset + start)
                if done == 0:
                    raise CheckpointError(f"{self.path} became shorter while it was read.")
                view, start = view[done:], start + done
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror or error}.") from error


def _read_at(file: BinaryIO, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [view], offset)
    with _turn:  # Windows
        file.seek(offset)
        return file.readinto(view) or 0  # type: ignore[attr-defined]


class Checkpoint(NamedTuple):
    """A model on disk."""

    path: Path
    """As the user named it."""
    places: dict[str, Place]
    """Of its tensors, in the order of the file."""
    files: list[Path]
    """All that it consists of."""
    metadata: dict[str, str]
    note: str = ""
    """One sentence on what was taken out of the file, and what left off its names; "" where nothing was."""

    @property
    def bytes(self) -> int:
        """Sizes of all files."""
        return sum(file.stat().st_size for file in self.files)


@contextmanager
def opened(path: Path) -> Iterator[Checkpoint]:
    """A checkpoint: a .safetensors file, an index of several, a folder with one of either, or a PyTorch file.

    Raises:
        CheckpointError: it is missing or damaged, or holds something other than named tensors.
    """
    found = _found(path)
    with ExitStack() as stack:
        if found.suffix == ".json":
            checkpoint = _sharded(path, found, stack)
        else:
            checkpoint = _single(found, stack)._replace(path=path)
        if not checkpoint.places:
            raise CheckpointError(f"{path} holds no tensors.")
        yield _plainly_named(checkpoint)


def tensors_in(path: Path) -> tuple[dict[str, Tensor], str]:
    """All tensors of a checkpoint, in memory, and what `Checkpoint.note` says; raises as `opened` does."""
    import torch

    tensors = {}
    with opened(path) as checkpoint:
        for name, place in checkpoint.places.items():
            content = torch.empty(place.info.bytes, dtype=torch.uint8)
            place.read(0, content)
            tensors[name] = content.view(dtype_of(place.info.code)).view(place.info.shape)
        return tensors, checkpoint.note


def _plainly_named(checkpoint: Checkpoint) -> Checkpoint:
    """The same, named as its network names its tensors, whatever had wrapped that."""
    names, prefix = without_prefix(checkpoint.places)
    if not prefix:
        return checkpoint
    places = {own: checkpoint.places[name] for name, own in names.items()}
    told = f"{checkpoint.path}: {prefix!r} is left off every name"
    note = f"{checkpoint.note.rstrip('.')}; {prefix!r} is left off every name." if checkpoint.note else f"{told}."
    return checkpoint._replace(places=places, note=note)


def _found(path: Path) -> Path:
    if path.is_dir():
        candidates = sorted(path.glob("*.safetensors.index*.json")) or sorted(path.glob("*.safetensors"))
        if len(candidates) != 1:
            kind = ".json indices" if candidates and candidates[0].suffix == ".json" else ".safetensors files"
            raise CheckpointError(f"{path} is a folder with {len(candidates) or 'no'} {kind}; name one checkpoint.")
        return candidates[0]
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}.")
    return path


def _single(path: Path, stack: ExitStack) -> Checkpoint:
    try:
        file = stack.enter_context(path.open("rb", buffering=0))
        start = file.read(10)
        file.seek(0)
        if start[8:9] != b"{" and start[:4] == b"PK\3\4":
            places, keys = _pytorch_places(path, file)
            note = f"{path}: the tensors under {'/'.join(keys)!r} are taken." if keys else ""
            return Checkpoint(path, places, [path], {}, note)
        if start[8:9] != b"{" and start[:1] == b"\x80":
            raise CheckpointError(
                f"{path} is in PyTorch's old format, which cannot be read in pieces; torch.load it and torch.save it."
            )
        header = read_header(file, path.stat().st_size)
        compare_file(path, file, header)
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path} is damaged or is no checkpoint: {error}.") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    places = {name: Place(info, path, file, header.offsets[name], mapped=None) for name, info in header.tensors.items()}
    told = {name: value for name, value in header.metadata.items() if name != CHECKSUM}  # a merge has its own
    return Checkpoint(path, places, [path], told)


def _pytorch_places(path: Path, file: BinaryIO) -> tuple[dict[str, Place], list[str]]:
    from metasum.merging.disk.pytorch import load_pytorch, locate

    infos, tensors, keys = load_pytorch(path)
    offsets = locate(path, tensors)
    places = {
        name: Place(info, path, file, offsets.get(name, 0), mapped=None if name in offsets else tensors[name])
        for name, info in infos.items()
    }
    return places, keys


def _sharded(path: Path, index: Path, stack: ExitStack) -> Checkpoint:
    named = read_json(index).get("weight_map")
    if not isinstance(named, Mapping) or not all(
        isinstance(shard, str) and shard and Path(shard).name == shard for shard in named.values()
    ):
        raise CheckpointError(f"{index} is damaged: its weight_map does not say which tensor is in which file.")
    shards = {shard: _single(_there(index, shard), stack) for shard in dict.fromkeys(named.values())}
    for name, shard in named.items():
        if name not in shards[shard].places:
            raise CheckpointError(f"{index} is damaged: {name!r} is not in {shard}.")
    metadata = next((shard.metadata for shard in shards.values()), {})
    files = [index, *(shard.path for shard in shards.values())]
    return Checkpoint(path, {name: shards[shard].places[name] for name, shard in named.items()}, files, metadata)


def _there(index: Path, shard: str) -> Path:
    path = index.with_name(shard)
    if "\0" in shard or not path.is_file():
        raise CheckpointError(f"{index} names {shard}, which is not there.")
    return path
