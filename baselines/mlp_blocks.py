"""The hidden units of transformers' MLP blocks in a checkpoint, told by names: no network is needed to permute them.

A block's hidden units stand between tensors that write them and one that reads them. Nothing else knows in which
order they are, so that they can be permuted without changing what the network computes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from metasum.errors import ArchitectureError
from metasum.merging.tensors import Part

WRITERS = {
    "down_proj": ("gate_proj", "up_proj", "gate_up_proj"),  # Llama, Mistral, Qwen, Gemma, Phi, MPT
    "c_proj": ("c_fc",),  # GPT-2, whose matrices are transposed, and those who took its names
    "fc2": ("fc1",),  # OPT, Whisper, CLIP, timm
    "wo": ("wi", "wi_0", "wi_1"),  # T5
    "dense_4h_to_h": ("dense_h_to_4h",),  # GPT-NeoX, Pythia, BLOOM, Falcon
    "w2": ("w1", "w3"),  # Llama as Meta has it, Mixtral's experts
    "output.dense": ("intermediate.dense",),  # BERT, ViT
    "linear2": ("linear1",),  # torch.nn.TransformerEncoderLayer
    "lin2": ("lin1",),  # DistilBERT
}
"""For each name of a layer that reads hidden units, names of the layers beside it that write them."""
TRANSPOSED = "c_proj"


class Hidden(NamedTuple):
    """Where hidden units are in one tensor."""

    part: Part
    axis: int
    times: int
    """How often all units follow one after another: twice where gate and up are one tensor."""


class Block(NamedTuple):
    """One MLP."""

    name: str
    """What its tensors' names start with."""
    size: int
    """Its number of hidden units."""
    tensors: tuple[Hidden, ...]


def may_hold_units(name: str) -> bool:
    """Whether a tensor is called like one of an MLP block."""
    return _split(name) is not None


def blocks_in(parts: Sequence[Part]) -> list[Block]:
    """All MLP blocks, in the order of their tensors.

    Raises:
        ArchitectureError: there are none; or the tensors of one do not fit together, or there is another tensor in it
            that has as many entries as there are hidden units, so that it cannot be told what it does to them.
    """
    found = defaultdict[tuple[str, str], dict[str, Part]](dict)
    for part in parts:
        if split := _split(part.name):
            found[split][part.name] = part
    blocks = []
    for (prefix, reader), own in found.items():
        writes = [name for writer in WRITERS[reader] if (name := f"{prefix}{writer}.weight") in own]
        if writes and f"{prefix}{reader}.weight" in own:
            blocks.append(_block(prefix, reader, own, writes))
    if not blocks:
        looked_for = "; ".join(f"{', '.join(writers)} beside {reader}" for reader, writers in WRITERS.items())
        raise ArchitectureError(
            f"there is no MLP block to be matched: what is looked for is called {looked_for}; for other networks add "
            "--model FILE.py:FUNCTION, which makes the network."
        )
    _check_nothing_else(blocks, parts)
    return blocks


def _split(name: str) -> tuple[str, str] | None:
    """What comes before the layer's name, and the name of the layer that reads the block's units."""
    module, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    for reader, writers in WRITERS.items():
        for layer in (reader, *writers):
            if module == layer or module.endswith(f".{layer}"):
                return module.removesuffix(layer), reader
    return None


def _block(prefix: str, reader: str, own: Mapping[str, Part], writes: Sequence[str]) -> Block:
    matrix = own[f"{prefix}{reader}.weight"]
    transposed = reader == TRANSPOSED and _is_transposed(own, writes[0])
    reads = 0 if transposed else 1
    size = matrix.shape[reads] if len(matrix.shape) > 1 else 0
    tensors = [Hidden(matrix, reads, 1)]
    for name, part in own.items():
        if name.startswith(f"{prefix}{reader}."):
            continue
        axis = 1 if transposed and name.endswith("weight") else 0
        times = part.shape[axis] // size if axis < len(part.shape) and size else 0
        if times not in (1, 2) or times * size != part.shape[axis]:
            raise ArchitectureError(
                f"{name!r}, {list(part.shape)}, and {matrix.name!r}, {list(matrix.shape)}, have no hidden units in "
                "common, as their names say; add --model FILE.py:FUNCTION, which makes the network."
            )
        tensors.append(Hidden(part, axis, times))
    return Block(prefix, size, tuple(tensors))


def _is_transposed(own: Mapping[str, Part], write: str) -> bool:
    """Whether a matrix has a column for each unit that it writes: by its bias, else since there are more units."""
    shape, bias = own[write].shape, own.get(write.removesuffix("weight") + "bias")
    return len(shape) == 2 and (shape[0] <= shape[1] if bias is None else bias.shape == shape[1:])


def _check_nothing_else(blocks: Iterable[Block], parts: Sequence[Part]) -> None:
    """That nothing in a block's module but attention has as many entries as units, where these are not its outputs."""
    for block in blocks:
        known = {hidden.part.name for hidden in block.tensors}
        reads = block.tensors[0]
        if block.size == reads.part.shape[1 - reads.axis]:
            continue
        for part in parts:
            inside = part.name.startswith(block.name) and "att" not in part.name.removeprefix(block.name)
            if inside and part.name not in known and block.size in part.shape:
                raise ArchitectureError(
                    f"{part.name!r}, {list(part.shape)}, is beside {reads.part.name!r}, which reads {block.size} "
                    "hidden units, and it is not known what it does to them; add --model FILE.py:FUNCTION, which makes "
                    "the network."
                )
