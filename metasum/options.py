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
        choices: the words it takes, where its type is not a Literal.
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
    """Of its value, or of each of its values."""
    many: bool
    """Whether it takes any number of values: a tuple."""
    optional: bool
    default: Any
    metadata: typing.Mapping[str, Any]
    choices: tuple[str, ...]
    """The words it takes, where it does not take any."""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        plural = {int: "whole numbers", float: "numbers"}.get(self.type, "words")
        return f"{plural}, separated by commas" if self.many else self.type.__name__


def options_of(settings: type, path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every leaf field of a settings dataclass, nested sections included, in reading order."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from options_of(typing.cast(type, hint), (*path, field.name))
            continue
        kinds = [part for part in typing.get_args(hint) if part is not type(None)]
        optional = isinstance(hint, types.UnionType)
        kind = kinds[0] if optional else hint
        many = typing.get_origin(kind) is tuple
        kind = typing.get_args(kind)[0] if many else kind
        words = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        choices = field.metadata["choices"] or words
        place = (*path, field.name)
        kind = str if words else kind
        yield Option(field.name, place, kind, many, optional, field.default, field.metadata, choices)


def check(settings: Any) -> None:
    """Raises UsageError for the first field whose value its documentation does not allow."""
    for leaf in options_of(type(settings)):
        if len(leaf.path) > 1:
            continue  # a nested section checked itself when it was made
        value = getattr(settings, leaf.name)
        if value is None and leaf.optional:
            continue
        if leaf.many and not isinstance(value, tuple):
            raise UsageError(f"{leaf.flag} takes {leaf.takes}, not {value!r}.")
        for one in value if leaf.many else (value,):
            _check_type(leaf, one)
            _check_range(leaf, one)


def _check_type(leaf: Option, value: Any) -> None:
    expected = (int, float) if leaf.type is float else leaf.type
    if not isinstance(value, expected) or (isinstance(value, bool) and leaf.type is not bool):
        raise UsageError(f"{leaf.flag} takes {leaf.takes}, not {value!r}.")
    if leaf.choices and value not in leaf.choices:
        raise unknown(f"value for {leaf.flag}", str(value), leaf.choices)


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
    """Base of settings dataclasses: an instance that exists is valid. Lists, as JSON has them, become tuples."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        check(self)
