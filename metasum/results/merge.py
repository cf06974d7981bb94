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
    """The file, or the first of several."""
    parameters: int
    """Floating-point entries of the result, all its files together."""
    bytes: int
    """Likewise."""
    seconds: float
    peak_bytes: int | None
    """Of the process; None where nobody has measured it."""
    statistics: int = 0
    """Tensors of running means and variances, which were averaged: they are no weights."""
    notes: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    """A sentence for all that was done and not asked for: what was taken out of a file, whose statistics the result
    has; None: nothing."""
    outputs: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    """The files, in the order of `files`, where each network kept something; None: there is one."""


def merge_parts(result: MergeResult) -> list[str]:
    """What was merged, how quickly, and where it is."""
    averaged = f"\n{result.statistics} running means and variances were averaged" if result.statistics else ""
    memory = "" if result.peak_bytes is None else f", with {result.peak_bytes / 2**20:.0f} MiB of memory"
    where = "\n".join(result.outputs or (result.output,))
    return [
        f"{result.method} of {len(result.files)} file(s), {result.parameters:,} parameters, "
        f"{_size(result.bytes)} in {result.seconds:.1f} s{memory}{averaged}\n{where}"
    ]


def _size(count: int) -> str:
    """Bytes in the unit that suits them."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{count / unit:.2f} {name}"
