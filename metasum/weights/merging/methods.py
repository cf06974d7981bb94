"""The methods that merge files, by name: one dictionary to read. No torch here: `--help` should not wait for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from metasum.errors import UsageError, unknown


@dataclass(frozen=True)
class Method:
    """A way of merging files that needs no data."""

    settings: tuple[str, ...] = ()
    """Names of the settings that it alone reads."""
    layered: str | None = None
    """The setting that may differ from layer to layer."""
    needs_base: bool = False
    """Whether it works on differences from the model that all were trained from."""
    fewest: int = 2
    most: int | None = None


METHODS: dict[str, Method] = {
    "sum": Method(),
    "average": Method(),
    "weighted": Method(("weights",), layered="weights"),
    "task-arithmetic": Method(("scaling",), layered="scaling", needs_base=True, fewest=1),
    "ties": Method(("density", "scaling", "trim"), layered="scaling", needs_base=True, fewest=1),
    "dare": Method(
        ("drop_rate", "scaling", "dare_then", "density", "trim", "seed"), layered="scaling", needs_base=True, fewest=1
    ),
    "slerp": Method(("position",), layered="position", most=2),
}


def method_named(name: str) -> Method:
    """The method of `name`; raises UsageError, with the nearest name, where there is none."""
    if name not in METHODS:
        raise unknown("merging method", name, METHODS)
    return METHODS[name]


def check_settings(name: str, given: Collection[str]) -> None:
    """Raises UsageError for a setting that the method does not read."""
    for setting in sorted(set(given) - {*method_named(name).settings, "dtype", "threads"}):
        raise UsageError(f"--{setting.replace('_', '-')} says nothing to method {name!r}.")


def check_inputs(name: str, *, files: int, base: bool) -> None:
    """Raises UsageError where so many files, with or without a base, do not suit the method."""
    method = method_named(name)
    if files < method.fewest or (method.most is not None and files > method.most):
        bound = "" if method.most else "at least "
        raise UsageError(f"{name} takes {bound}{method.fewest} file{'s' * (method.fewest > 1)}, not {files}.")
    if method.needs_base and not base:
        raise UsageError(f"{name} needs --base FILE: the model that the others were trained from.")
    if base and not method.needs_base:
        raise UsageError(f"{name} takes no --base.")
