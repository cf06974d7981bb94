"""Numbers as text, and means with standard deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any


def spread(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation of the values that there are; the deviation of a single one is None."""
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
    }


def with_spread(values: Mapping[str, float | None], *, scale: float = 1, digits: int = 2) -> str:
    """`mean ± standard deviation`, the latter only where there are several values; – where there is none."""
    mean, deviation = values["mean"], values["std"]
    if mean is None:
        return "–"
    return f"{mean * scale:.{digits}f}" + ("" if deviation is None else f" ± {deviation * scale:.{digits}f}")


def in_short(value: Any) -> str:
    """A setting's value or a measured one: numbers with a fraction to four digits, all else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def retention(before: float, after: float) -> float | None:
    """The share of an accuracy that is left, in [0, 1] or a little above; None where there was none to lose."""
    return after / before if before else None
