"""Running code several times with the same random numbers, and leaving no trace in the random state."""

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
