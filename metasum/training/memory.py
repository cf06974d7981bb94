"""How much memory was needed, and keeping it from one step to the next."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keep_freed_memory() -> None:
    """Has the C library keep what is freed for the next allocation, in this whole process.

    By default glibc hands every large block back to the kernel, which clears it anew for the next step: a fifth of a
    step's time at width 1.0 on the CPU. To be called by whoever owns the process. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def reset_peak(device: torch.device | None = None) -> None:
    """Starts the count of `peak_bytes` anew; on the CPU on Linux only, elsewhere a process's own peak stays."""
    if _on_gpu(device):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform.startswith("linux"):
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)  # what an earlier run freed and glibc kept is not this run's
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def peak_bytes(device: torch.device | None = None) -> int:
    """Most memory held at once, in bytes: of the GPU's allocator where one is used, else of this process so far.

    0 on Windows, which has no `getrusage`. Without a device it is the CPU's, and PyTorch is not imported for it.
    """
    if _on_gpu(device):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def held_bytes(device: torch.device) -> int:
    """Memory held now, in bytes: of the GPU's allocator where one is used, else what of this process is resident.

    0 where the system does not say (it does on Linux).
    """
    if _on_gpu(device):
        import torch

        return int(torch.cuda.memory_allocated(device))
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _on_gpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"
