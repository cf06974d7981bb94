"""Random states: kept, put back, and the same for several runs of some code."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def same_randomness(device: torch.device) -> Iterator[Callable[[], None]]:
    """Yields a function that puts all random generators back to where the block began; the end does so, too.

    Python's, NumPy's and PyTorch's global generators, on the CPU and, where `device` is a CUDA device, on it.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def rewind() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)

    try:
        yield rewind
    finally:
        rewind()


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The CPU's generator and, where training runs on a GPU, that GPU's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """The inverse of `random_state`, on the same kind of device."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
