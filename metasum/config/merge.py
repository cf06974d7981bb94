"""Every setting of `metasum merge`."""

from __future__ import annotations

import dataclasses
import math

from metasum.config.choices import MERGE_DTYPES, TRIMS
from metasum.config.learners import TaskVectorConfig
from metasum.errors import UsageError
from metasum.settings import option


@dataclasses.dataclass(frozen=True)
class MergeConfig(TaskVectorConfig):
    """How checkpoint files are merged.

    Raises:
        UsageError: a value is of the wrong type, outside its range or not among its choices.
    """

    weights: str | None = option(
        None,
        "Factor on each file, separated by commas, taken as they are: for a mean, let them add up to 1 (weighted).",
    )
    trim: str = option(
        "whole", "What TIES trims at once: all parameters as one long vector, or each tensor by itself.", choices=TRIMS
    )
    seed: int = option(0, "Seed of DARE's draws.", minimum=0, below=2**62)
    dtype: str = option(
        "keep", "What is written; arithmetic is in float32, or float64 where a file has that.", choices=MERGE_DTYPES
    )
    threads: int | None = option(None, "Threads that merge [default: the number of usable cores].", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        factors(self.weights)


def factors(text: str | None) -> list[float]:
    """The numbers of a comma-separated list, none for None; raises UsageError where one is no finite number."""
    try:
        values = [] if text is None else [float(word) for word in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UsageError(f"--weights takes numbers, separated by commas, not {text!r}.")
    return values
