"""What is known of layouts on this machine: a small file for each processor, build of PyTorch and number of threads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from metasum.errors import MetaSumError
from metasum.files import NO_LINK, cache_folder, make_folder, read_json, write_json
from metasum.locks import lock
from metasum.training.layout_probe import Convolution


def what_it_holds_for() -> dict[str, Any]:
    """What a verdict holds for: the processor, the build of PyTorch, and what chooses among its convolutions."""
    return {
        "torch": torch.__version__,
        "build": hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:16],
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("ONEDNN_", "DNNL_", "MKLDNN_", "ATEN_CPU_"))
        },
    }


def _processor() -> str:
    """The processor's name and, on Linux, a digest of what it can do; folders are shared by unlike machines."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
        words = {name.strip().lower(): value.strip() for name, value in told.items()}
        abilities = words.get("flags") or words.get("features") or ""
        name = words.get("model name") or platform.machine()
        return f"{name} {hashlib.sha256(abilities.encode()).hexdigest()[:16]}"
    return f"{platform.machine()} {platform.processor()} {platform.node()}"


def _file(surroundings: dict[str, Any]) -> Path:
    """Where verdicts are remembered."""
    return cache_folder() / f"layouts-{digest(surroundings)}.json"


def recall(surroundings: dict[str, Any]) -> dict[str, str | None]:
    """What is known in these surroundings: by digest, None for a convolution that is right, a fault for a set of them.

    Nothing where no file is, or a damaged one.
    """
    with contextlib.suppress(MetaSumError, RuntimeError):
        return read_json(_file(surroundings))
    return {}


def remember(surroundings: dict[str, Any], convolutions: Sequence[Convolution], fault: str | None) -> None:
    """Adds the verdict on a set of convolutions to what is known; where nothing can be written, nothing is.

    Args:
        surroundings: what the verdict holds for.
        convolutions: that were tried together.
        fault: what is wrong with one of them; None where all are right.
    """
    learnt = map(digest, convolutions) if fault is None else [digest(convolutions)]
    with contextlib.suppress(MetaSumError, OSError, RuntimeError), _alone():  # else it is tried again the next time
        write_json(_file(surroundings), recall(surroundings) | dict.fromkeys(learnt, fault))


def settled(surroundings: dict[str, Any], key: str, find: Callable[[], str]) -> str:
    """What was found for `key` in these surroundings, by whichever process was the first to find it.

    Args:
        surroundings: what it holds for.
        key: a digest of what it is about.
        find: is called where nothing is known; what it returns is remembered, where something can be written.
    """
    known = recall(surroundings).get(key)
    if known is not None:
        return known
    found = find()
    with contextlib.suppress(MetaSumError, OSError, RuntimeError), _alone():
        others = recall(surroundings)  # another process, of the same study perhaps, may have been the first
        if (first := others.get(key)) is not None:
            return first
        write_json(_file(surroundings), {**others, key: found})
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """For the block, which reads a file and writes it anew, no other process does so."""
    folder = cache_folder()
    make_folder(folder)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
    try:
        lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def digest(value: Any) -> str:
    """Of anything that JSON has a form for; the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
