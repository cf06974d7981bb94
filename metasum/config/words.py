"""The words that settings of several rooms take."""

from __future__ import annotations

from typing import Literal

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
