"""What a checkpoint's fields may be: looked at before any of them is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metasum.errors import CheckpointError

COUNTS = ("step", "updates", "images")
TIMES = ("seconds", "evaluation_seconds")
STATES = ("learner", "optimizer", "precision", "sampler", "random")


def check_state(state: Mapping[str, Any], steps: int, path: Path) -> None:
    """Raises CheckpointError where a field is of another kind, or a number that no run of so many steps can have.

    Args:
        state: as `RunFolder.load_checkpoint` returns it.
        steps: how many the whole run takes.
        path: of the file, for the error.
    """
    for name in COUNTS:
        if not isinstance(state[name], int) or isinstance(state[name], bool) or state[name] < 0:
            raise _damaged(path, name, state[name])
    for name in TIMES:
        number = isinstance(state[name], int | float) and not isinstance(state[name], bool)
        if not number or not 0 <= state[name] < math.inf:
            raise _damaged(path, name, state[name])
    for name in STATES:
        if not isinstance(state[name], Mapping):
            raise _damaged(path, name, state[name])
    if state["step"] > steps or state["updates"] > state["step"]:
        raise CheckpointError(
            f"{path} is damaged: it says that {state['updates']} updates are done in {state['step']} of {steps} steps."
        )
    try:
        torch.Generator().set_state(state["random"]["cpu"])
    except Exception as error:  # whatever PyTorch says of what is no state
        raise _damaged(path, "random", state["random"]) from error


def _damaged(path: Path, name: str, value: Any) -> CheckpointError:
    told = repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    return CheckpointError(f"{path} is damaged: its {name!r} is {told[:40]}.")
