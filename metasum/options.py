"""Settings that carry their own documentation: a dataclass field with help, unit, range and choices.

The command line and the checks are read off these fields, so that a flag, a line in a sweep file and a keyword in
Python are one thing under one name.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

from metasum.errors import UsageError, unknown


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A documented dataclass field.

    Args:
        default: its default; None means "decided later", and `help` says by what.
        help: one line for `--help`.
        unit: what a number counts ("steps", "images"); "" for a pure number.
        choices: the words it takes.
        minimum: the least value taken; `above`: taken values are greater; `below`: taken values are less;
            `maximum`: the greatest value taken.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": choices,
        "minimum": minimum,
        "above": above,
        "below": below,
        "maximum": maximum,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Option:
    """One leaf of a settings dataclass: where it sits, and what it takes."""

    name: str
    path: tuple[str, ...]
    type: type
    optional: bool
    default: Any
    metadata: typing.Mapping[str, Any]

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def options_of(settings: type, path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every leaf field of a settings dataclass, nested sections included, in reading order."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from options_of(typing.cast(type, hint), (*path, field.name))
            continue
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        union = isinstance(hint, types.UnionType)
        kind = parts[0] if union else hint
        yield Option(field.name, (*path, field.name), kind, union, field.default, field.metadata)


def check(settings: Any) -> None:
    """Raises UsageError for the first field whose value its documentation does not allow."""
    for leaf in options_of(type(settings)):
        if len(leaf.path) > 1:
            continue  # a nested section checked itself when it was made
        value = getattr(settings, leaf.name)
        if value is None and leaf.optional:
            continue
        _check_type(leaf, value)
        _check_range(leaf, value)


def _check_type(leaf: Option, value: Any) -> None:
    expected = (int, float) if leaf.type is float else leaf.type
    if not isinstance(value, expected) or (isinstance(value, bool) and leaf.type is not bool):
        raise UsageError(f"{leaf.flag} takes {leaf.type.__name__}, not {value!r}.")
    choices = leaf.metadata["choices"]
    if choices and value not in choices:
        raise unknown(f"value for {leaf.flag}", str(value), choices)


def _check_range(leaf: Option, value: Any) -> None:
    if leaf.type not in (int, float):
        return
    bounds = leaf.metadata
    if not math.isfinite(value):
        raise UsageError(f"{leaf.flag} takes a finite number, not {value}.")
    if bounds["minimum"] is not None and value < bounds["minimum"]:
        raise UsageError(f"{leaf.flag} must be at least {bounds['minimum']:g}, not {value:g}.")
    if bounds["above"] is not None and value <= bounds["above"]:
        raise UsageError(f"{leaf.flag} must be greater than {bounds['above']:g}, not {value:g}.")
    if bounds["below"] is not None and value >= bounds["below"]:
        raise UsageError(f"{leaf.flag} must be less than {bounds['below']:g}, not {value:g}.")
    if bounds["maximum"] is not None and value > bounds["maximum"]:
        raise UsageError(f"{leaf.flag} must be at most {bounds['maximum']:g}, not {value:g}.")


class Checked:
    """Base of settings dataclasses: an instance that exists is valid."""

    def __post_init__(self) -> None:
        check(self)
