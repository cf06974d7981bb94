"""A setting: a field of a frozen dataclass that carries its own help, unit and range.

Flags, lines of a sweep file, keywords in Python and all checks are read off these fields, so that a setting has one
name everywhere. A type is `str`, `int`, `float`, `bool`, a `Literal` of words, or `tuple[T, ...]` of one of these (with
commas between its parts on the command line); `T | None` where None has a meaning of its own, which the help tells.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any

from metasum.arguments import told
from metasum.errors import UsageError, shown, unknown

UNSET: Any = dataclasses.MISSING
"""The default of a field that has none: it is filled in when a run is planned."""
BOUNDS = {
    "minimum": (operator.ge, "at least"),
    "above": (operator.gt, "greater than"),
    "below": (operator.lt, "less than"),
    "maximum": (operator.le, "at most"),
}
"""The bounds of `option`: what holds between a value and the bound, and how it is said."""


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    filled: str = "",
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A documented field.

    Args:
        default: its value where nobody gives one, or UNSET.
        help: a sentence for `--help`.
        unit: what a number counts ("steps", "images"); "" for a pure number.
        filled: where the value comes from then, if not from `default` ("the pair's recipe").
        minimum: the least value taken; `above`: values taken are greater; `below`: values taken are less;
            `maximum`: the greatest value taken.
    """
    bounds = {"minimum": minimum, "above": above, "below": below, "maximum": maximum}
    metadata = {"help": help, "unit": unit, "filled": filled, "bounds": bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of a settings dataclass, and what it takes."""

    name: str
    kind: type
    """str, int, float or bool: of the value, or of each part."""
    words: tuple[str, ...]
    """The only values taken; () for any."""
    many: bool
    optional: bool
    default: Any
    """`dataclasses.MISSING` where it is filled in later."""
    metadata: Mapping[str, Any]

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    @property
    def required(self) -> bool:
        """Whether somebody has to fill it in."""
        return self.default is UNSET

    def checked(self, value: Any) -> Any:
        """The value in the field's own type (an int as float where that is asked for).

        Raises:
            UsageError: it is of another type, outside the range or not among the words.
        """
        if value is None and self.optional:
            return None
        if not self.many:
            return self._part(value)
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UsageError(f"{self.flag} takes several values (in Python a tuple), not {told(value)}.")
        return tuple(self._part(part) for part in value)

    def parsed(self, text: str) -> Any:
        """The value that a word on the command line stands for; raises UsageError as `checked` does."""
        words = [word.strip() for word in text.split(",") if word.strip()] if self.many else [text]
        if not words:
            raise UsageError(f"{self.flag} takes values separated by commas, not {text!r}.")
        values = [self._read(word) for word in words]
        return self.checked(tuple(values) if self.many else values[0])

    def _read(self, word: str) -> Any:
        if self.kind is bool and word.lower() in ("true", "false"):
            return word.lower() == "true"
        try:
            return self.kind(word) if self.kind in (int, float, str) else word
        except ValueError:
            return word  # `checked` says what is wrong with it

    def _part(self, value: Any) -> Any:
        expected = (int, float) if self.kind is float else self.kind
        if not isinstance(value, expected) or (isinstance(value, bool) and self.kind is not bool):
            names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
            raise UsageError(f"{self.flag} takes {names[self.kind]}, not {told(value)}.")
        if self.words and value not in self.words:
            raise unknown(f"value for {self.flag}", str(value), self.words)
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._check_range(value)
            return float(value) if self.kind is float else value
        return value

    def _check_range(self, value: float) -> None:
        bits = 63 if self.kind is int else 1023  # PyTorch's whole numbers; what a float may be
        if isinstance(value, int) and abs(value) >= 2**bits:
            raise UsageError(f"{self.flag} must be less than 2**{bits}, not {shown(value)}.")
        if not math.isfinite(value):
            raise UsageError(f"{self.flag} takes a finite number, not {shown(value)}.")
        for name, (holds, words) in BOUNDS.items():
            bound = self.metadata["bounds"][name]
            if bound is not None and not holds(value, bound):
                raise UsageError(f"{self.flag} must be {words} {bound:g}, not {value:g}.")


def flag_of(name: str) -> str:
    """A setting's name as the command line writes it."""
    return "--" + name.replace("_", "-")


def options_of(settings: Any) -> tuple[Option, ...]:
    """The fields of a settings dataclass (the class), in reading order."""
    return _options_of(settings)


@functools.cache
def _options_of(settings: Any) -> tuple[Option, ...]:
    hints = typing.get_type_hints(settings)
    options = []
    for field in dataclasses.fields(settings):
        hint, optional, many = hints[field.name], False, False
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
            optional = True
        if typing.get_origin(hint) is tuple:
            hint, many = typing.get_args(hint)[0], True
        words = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        kind = str if words else hint
        options.append(Option(field.name, kind, words, many, optional, field.default, field.metadata))
    return tuple(options)


class Checked:
    """Base of settings dataclasses: an instance that exists holds values that its fields take."""

    def __post_init__(self) -> None:
        for leaf in options_of(type(self)):
            object.__setattr__(self, leaf.name, leaf.checked(getattr(self, leaf.name)))

    def check_given(self, given: frozenset[str]) -> None:
        """Raises UsageError for a setting that was given and that the others here leave without a meaning.

        Args:
            given: names of the settings that somebody chose, here or in other sections.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoSettings(Checked):
    """Of whoever leaves nothing open."""
