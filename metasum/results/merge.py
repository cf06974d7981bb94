"""A merge's result: checkpoint files became one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from metasum.results.value import LEFT_OUT, Result


@dataclass(frozen=True)
class MergeResult(Result):
    """What `metasum merge` did."""

    kind: ClassVar[str] = "merge"

    method: str
    files: tuple[str, ...]
    output: str
    parameters: int
    """Floating-point entries of the result."""
    bytes: int
    """Of the result."""
    seconds: float
    peak_bytes: int | None
    """Of the process; None where nobody has measured it."""
    statistics: int = 0
    """Tensors of running means and variances, which were averaged: they are no weights."""
    notes: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    """A sentence for each file out of which something was taken, or whose names lost a wrapper's prefix; None: none."""


def merge_parts(result: MergeResult) -> list[str]:
    """What was merged, how quickly, and where it is."""
    averaged = f"\n{result.statistics} running means and variances were averaged" if result.statistics else ""
    memory = "" if result.peak_bytes is None else f", with {result.peak_bytes / 2**20:.0f} MiB of memory"
    return [
        f"{result.method} of {len(result.files)} file(s), {result.parameters:,} parameters, "
        f"{result.bytes / 1e9:.2f} GB in {result.seconds:.1f} s{memory}{averaged}\n{result.output}"
    ]
