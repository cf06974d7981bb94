"""How much memory was needed."""

from __future__ import annotations

import sys

import torch


def reset_peak(device: torch.device) -> None:
    """Starts a GPU's count anew. A process's own peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most memory held at once, in bytes: of the GPU's allocator where one is used, else of this process so far.

    0 on Windows, which has no `getrusage`.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
