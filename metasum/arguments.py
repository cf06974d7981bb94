"""What a public function is given, held against its own signature: the wrong kind of thing is refused at the door."""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from metasum.errors import UsageError, shown

P = ParamSpec("P")
R = TypeVar("R")
WORDS: dict[Any, str] = {int: "a whole number", float: "a finite number", str: "text", bool: "True or False"}
WORDS |= {Path: "a path", type(None): "None", types.NoneType: "None"}
NAMED = {"Module": "an nn.Module", "Tensor": "a tensor", "Method": "a method of merging"}
"""By name, since nothing here imports PyTorch."""
NOT_SEVERAL = (str, bytes, bytearray, Mapping)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which refuses an argument that is not of the kind that its signature names.

    `X | None`, words (`Literal`), sequences, mappings and callables are looked at, and what is in the first two of
    them; of a type that is a protocol, whether there is all that it names. What is annotated with `Any` is the
    function's own business, alone or in a list: it says more of that than could be said here.

    Raises:
        UsageError: (when it is called) an argument is of another kind; it is named, and what it should be.
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [own.name for own in parameters if own.kind in (own.POSITIONAL_ONLY, own.POSITIONAL_OR_KEYWORD)]
    named = {own.name for own in parameters if own.kind in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY)}

    @functools.wraps(function)
    def door(*args: P.args, **kwargs: P.kwargs) -> R:
        kinds = _kinds(function)
        for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
            if name in named and name in kinds and not _open(kinds[name]) and not fits(value, kinds[name]):
                raise refusal(name, value, kinds[name])
        return function(*args, **kwargs)

    return door


def _open(kind: Any) -> bool:
    return any(entry is Any for own in _alternatives(kind) for entry in (own, *_entries(own)))


def check_fields(value: Any) -> None:
    """The same of a dataclass's fields, for its `__post_init__`."""
    owner: Any = type(value)
    kinds = _kinds(owner)
    for name in value.__dataclass_fields__:
        if not fits(getattr(value, name), kinds[name]):
            raise refusal(name, getattr(value, name), kinds[name])


def check_between(name: str, value: int, minimum: int, maximum: int = 2**63 - 1) -> None:
    """Raises UsageError for a whole number out of range."""
    if not minimum <= value <= maximum:
        raise UsageError(f"{name}= takes a whole number of {minimum} to {maximum}, not {shown(value)}.")


def refusal(name: str, value: Any, kind: Any) -> UsageError:
    """The sentence for an argument of another kind; of a list or dictionary, what is wrong in it."""
    inside = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    )
    entries = {own for alternative in _alternatives(kind) for own in _entries(alternative)}
    wrong = next(((key, own) for key, own in inside if not any(fits(own, entry) for entry in entries)), None)
    found = told(value) if wrong is None or not entries else f"{told(wrong[1])} at {name}[{wrong[0]!r}]"
    return UsageError(f"{name}= takes {in_words(kind)}, not {found}.")


def _entries(kind: Any) -> tuple[Any, ...]:
    """What a list or dictionary of a kind holds."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    return (
        inner[-1:]
        if isinstance(origin, type) and issubclass(origin, Sequence | Mapping) and origin is not tuple
        else ()
    )


def told(value: Any) -> str:
    """What somebody gave, in few words."""
    if value is None or isinstance(value, str | bool | int | float):
        return shown(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple | dict) and not value:
        return f"an empty {type(value).__name__}"
    inside = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    of = f" of {type(inside[0]).__name__}" if inside else ""
    return f"a {type(value).__name__}{of}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind that an annotation names."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, object) or isinstance(kind, TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, own) for own in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if origin is type:
        return isinstance(value, type) and any(fits_class(value, own) for own in _alternatives(inner[0]))
    if origin is tuple and inner[-1:] != (...,):
        own = list(value) if isinstance(value, list | tuple) else []
        return len(own) == len(inner) and all(map(fits, own, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if origin is Callable:
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _are_several(value, inner[0])
    return fits_class_of(value, origin or kind)


def _are_several(value: Any, kind: Any) -> bool:
    """A list, or what can be read like one: a module list, say, but no text, and no array, whose rows are arrays."""
    if isinstance(value, NOT_SEVERAL) or hasattr(value, "dtype") or not hasattr(value, "__getitem__"):
        return False
    return isinstance(value, Iterable) and hasattr(value, "__len__") and all(fits(own, kind) for own in value)


def fits_class(value: type, kind: Any) -> bool:
    """Whether a class is one of a kind."""
    return kind is Any or (isinstance(kind, type) and issubclass(value, kind))


def fits_class_of(value: Any, kind: Any) -> bool:
    """The same of what is no collection; a number is finite, and no switch."""
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return not isinstance(value, bool) and isinstance(value, Integral)
    if kind is float:
        return not isinstance(value, bool) and isinstance(value, Real) and _finite(value)
    if kind is Path:
        return isinstance(value, os.PathLike)
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in vars(kind) if not name.startswith("_"))
    return isinstance(value, kind)


def _finite(value: Real) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def in_words(kind: Any) -> str:
    """An annotation as one would say it."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(own) for own in inner))
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if origin is type:
        return f"a class of {' or '.join(own.__name__ for own in _alternatives(inner[0]))}"
    if origin is tuple and inner[-1:] != (...,):
        return f"a pair of {in_words(inner[0])} each" if len(inner) == 2 else f"{len(inner)} values"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a dictionary" if inner[1] in (Any, object) else f"a dictionary of {in_words(inner[1])} by name"
    if origin is Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        entry = in_words(inner[0])
        return "a list" if "anything" in entry else f"a list (each entry {entry})"
    name = str(getattr(origin or kind, "__name__", kind))
    return "anything" if kind in (Any, object) else NAMED.get(name, f"{'an' if name[0] in 'AEIO' else 'a'} {name}")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


@functools.cache
def _kinds(owner: Any) -> dict[str, Any]:
    """Annotations by parameter or field."""
    return typing.get_type_hints(owner)
