"""The words that settings of several rooms take."""

from __future__ import annotations

from typing import Literal, get_args

from metasum.third_party import has_learn2learn

Operator = Literal["sum", "average", "task-arithmetic", "learned"]
Backend = Literal["learn2learn", "torch", "higher"]
Statistics = Literal["recalibrate", "own", "target", "support", "learned"]
Augmentation = Literal["none", "shift", "shift-flip"]
Heads = Literal["summed", "own"]
HeldOut = Literal["test", "validation"]
Precision = Literal["32", "bf16-mixed", "16-mixed"]
MemoryFormat = Literal["contiguous", "channels-last"]
Layout = Literal["auto", "contiguous", "channels-last"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Schedule = Literal["constant", "linear", "cosine"]


def installed_backends() -> tuple[Backend, ...]:
    """The backends whose library is here; the first of them runs summed networks where nobody chooses one."""
    return get_args(Backend) if has_learn2learn() else ("torch", "higher")


def usual_backend() -> Backend:
    """The first of them."""
    return installed_backends()[0]
