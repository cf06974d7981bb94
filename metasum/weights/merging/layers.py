"""Which layers are merged, and with which settings: patterns of parameter names."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

from metasum.config.merge import MergeConfig, factors
from metasum.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Layers:
    """What the user said of single layers.

    Args:
        only: patterns; where there are any, a parameter that none matches is left as the first file has it.
        skip: patterns of parameters that are left as the first file has them.
        settings: pairs of a pattern and a value of the method's layered setting; the last match counts.
    """

    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    settings: Sequence[tuple[str, Any]] = ()

    def takes(self, name: str) -> bool:
        """Whether the parameter is merged."""
        return (not self.only or _matches(name, self.only)) and not _matches(name, self.skip)

    def value(self, name: str, usual: Any) -> Any:
        """The layered setting of one parameter."""
        return next((value for pattern, value in reversed(self.settings) if fnmatchcase(name, pattern)), usual)

    def check(self, names: Collection[str]) -> None:
        """Raises UsageError for a pattern that matches no parameter."""
        flags = {"--only": self.only, "--skip": self.skip, "--layers": [pattern for pattern, _ in self.settings]}
        for flag, patterns in flags.items():
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise UsageError(f"{flag} {pattern}: no parameter is called so, as {next(iter(names), 'none')} is.")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def parse_layers(texts: Sequence[str], *, layered: str | None, settings: MergeConfig) -> list[tuple[str, Any]]:
    """Pairs of a pattern and a value, from "PATTERN=VALUE".

    Args:
        texts: as given to `--layers`.
        layered: the setting that the method lets differ, None where it has none.
        settings: those of the merge, whose checks hold for the values, too.

    Raises:
        UsageError: the method has nothing to set, or a text or value makes no sense.
    """
    if texts and layered is None:
        raise UsageError("--layers says nothing here: this method has no setting that differs from layer to layer.")
    pairs = []
    for text in texts:
        pattern, _, value = text.rpartition("=")
        try:
            given: Any = value if layered == "weights" else float(value)
        except ValueError:
            given = None
        if not pattern or given is None:
            raise UsageError(f"--layers takes PATTERN=VALUE, for instance '*.bias=0.5', not {text!r}.")
        changed = dataclasses.replace(settings, **{str(layered): given})
        pairs.append((pattern, factors(changed.weights) if layered == "weights" else given))
    return pairs
