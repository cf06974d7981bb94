"""A module of the user's own, and checkpoints of it as people have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from metasum.arguments import checked
from metasum.errors import ArchitectureError, reason
from metasum.merging.disk.checkpoint import tensors_in


@checked
def load_checkpoint(network: nn.Module, path: Path | str, *, but: Sequence[str] = ()) -> list[str]:
    """Gives `network` the parameters and buffers in a file, in its own dtypes, on its own device.

    Args:
        network: changed in place.
        path: a .safetensors file, the index of a sharded one, a folder with one of either, or a PyTorch file: a
            `state_dict`, bare or under "state_dict", "model", "model_state_dict" or "ema"; Lightning's, too. What
            `DataParallel`, `torch.compile` or a LightningModule put before every name is left off. Nothing that the
            file holds is run.
        but: patterns of names, as the shell's, that are not looked at, here or there: a head of other classes.

    Returns:
        A sentence for everything that was taken out of something or left off.

    Raises:
        CheckpointError: the file is missing or damaged, or holds something other than named tensors.
        ArchitectureError: a key is missing or is one too many, or a shape is another; it is named, with both shapes.

    Example:
        >>> notes = metasum.load_checkpoint(network, "a.safetensors")
    """
    path = Path(path)
    found, note = tensors_in(path)
    own = {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    own = {name: tensor for name, tensor in own.items() if not _among(name, but)}
    tensors, prefix = _without_attribute(found, own)
    tensors = {name: tensor for name, tensor in tensors.items() if not _among(name, but)}
    notes = [note] if note else []
    if prefix:
        notes.append(f"{path}: {prefix!r} is left off every name.")
    _check(tensors, own, path)
    try:
        network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise ArchitectureError(f"{path} does not fit the network ({reason(error)}).") from error
    return notes


def _among(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _without_attribute(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """The tensors by the network's own names, where all of these stand behind one attribute's ("model." or "net.")."""
    for prefix in dict.fromkeys(name.partition(".")[0] + "." for name in tensors):
        if all(name.startswith(prefix) for name in tensors) and all(prefix + name in tensors for name in own):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix
    return tensors, ""


def _check(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Raises ArchitectureError where a tensor is missing, too many or misshapen."""
    missing = [name for name in own if name not in tensors and not _may_miss(name, tensors, own)]
    extra = [name for name in tensors if name not in own]
    if missing or extra:
        told = [f"lacks {_some(missing)}"] if missing else []
        told += [f"has {_some(extra)}, which the network does not have"] if extra else []
        raise ArchitectureError(f"{path} does not fit the network: it {' and '.join(told)}.")
    for name, tensor in tensors.items():
        mine = own[name]
        if is_lazy(mine):
            continue
        if tensor.shape != mine.shape or tensor.is_floating_point() != mine.is_floating_point():
            raise ArchitectureError(
                f"{path} does not fit the network: {name!r} is {_told(tensor)} there and {_told(mine)} in the network."
            )


def _may_miss(name: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether the network is whole without it: a batch norm's counter, or a tensor that is there by another name."""
    mine = own[name]
    if name.endswith("num_batches_tracked"):
        return True
    return any(other is mine and known in tensors for known, other in own.items())


def _some(names: list[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _told(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
