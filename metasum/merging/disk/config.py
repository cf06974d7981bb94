"""How checkpoint files are merged, whatever the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from metasum.config import Checked, option
from metasum.errors import UsageError


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
    threads: int | None = option(
        None, "Threads that merge [default: the number of usable cores].", minimum=1, maximum=1024
    )

    def merges(self, name: str) -> bool:
        """Whether the parameter called so is merged; else it is the first file's."""
        return (not self.only or _matches(name, self.only)) and not _matches(name, self.skip)

    def check_patterns(self, names: Collection[str]) -> None:
        """Raises UsageError for a pattern that no parameter's name matches."""
        for flag, patterns in (("--only", self.only), ("--skip", self.skip)):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise UsageError(f"{flag} {pattern}: no parameter is called so, as {next(iter(names), '')} is.")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
