"""Checkpoints as people save them: the tensors under a key, and a wrapper's prefix before every name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

KEYS = ("state_dict", "model_state_dict", "model", "ema")
"""Where a training script keeps a network's tensors beside its optimiser's; the first one that is there counts."""
PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel`, `DistributedDataParallel`, `AveragedModel` and `torch.compile` put before every name."""
COUNTER = "n_averaged"
"""The one entry of an `AveragedModel` that is not its network's."""


def unwrapped(value: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], list[str]]:
    """The dictionary of tensors in what a file holds, and the keys that lead to it: none where it is that itself."""
    keys: list[str] = []
    while key := next((key for key in KEYS if isinstance(value.get(key), Mapping)), None):
        keys.append(key)
        value = value[key]
    return value, keys


def without_prefix(names: Collection[str]) -> tuple[dict[str, str], str]:
    """Names without what a wrapper put before all of them.

    Returns:
        From each name, in their order, to the network's own, and the prefix that was left out, "" where there is none.
    """
    kept = [name for name in names if name != COUNTER]
    prefix = ""
    while found := next((each for each in PREFIXES if all(name.startswith(prefix + each) for name in kept)), None):
        if not kept or any(name == prefix + found for name in kept):
            break
        prefix += found
    if not prefix:
        kept = list(names)
    return {name: name[len(prefix) :] for name in kept}, prefix
