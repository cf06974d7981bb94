"""How checkpoint files are merged, whatever the method."""

from __future__ import annotations

import dataclasses
from typing import Literal

from metasum.config import Checked, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeConfig(Checked):
    """Which parameters are merged, and what is written.

    Example:
        >>> settings = MergeConfig(skip=("head.*",), dtype="bfloat16", threads=2)  # the head is the first file's
        >>> result = merge_files("average", ["a.safetensors", "b.safetensors"], "both.safetensors", settings=settings)

    Raises:
        UsageError: a value is of the wrong type, outside its range or not among its choices.
    """

    only: tuple[str, ...] = option((), "Merge the parameters called so (a pattern, as the shell's).")
    skip: tuple[str, ...] = option(
        (), "Take the parameters called so (a pattern) from the first file, whatever the others hold."
    )
    dtype: Literal["keep", "float32", "float16", "bfloat16", "float64"] = option(
        "keep", "What is written; arithmetic is in float32, or float64 where a file has that."
    )
    threads: int | None = option(None, "Threads that merge [default: the number of usable cores].", minimum=1)
