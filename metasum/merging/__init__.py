"""Every method of merging by name: one dictionary to read. No torch here: a listing should not wait for it."""

from __future__ import annotations

from importlib import import_module

from metasum.errors import UsageError, unknown
from metasum.files import check_folder_name
from metasum.merging.method import Method
from metasum.options import options_of

METHODS: dict[str, type[Method] | str] = {
    "sum": "metasum.merging.plain:Sum",
    "average": "metasum.merging.plain:Average",
    "weighted": "metasum.merging.plain:Weighted",
    "task-arithmetic": "metasum.merging.task_arithmetic:TaskArithmetic",
    "ties": "metasum.merging.ties:TIES",
    "dare": "metasum.merging.dare:DARE",
    "slerp": "metasum.merging.slerp:SLERP",
    "fisher": "metasum.baselines.fisher:Fisher",
    "regmean": "metasum.baselines.regmean:RegMean",
    "weight-matching": "metasum.baselines.weight_matching:WeightMatching",
}
"""Classes, or where they are: "module:class"."""


def method_named(name: str, *, kind: str = "merging method") -> type[Method]:
    """The method of `name`; raises UsageError, with the nearest name, where there is none. `kind`: what to call it."""
    if name not in METHODS:
        raise unknown(kind, name, METHODS)
    entry = METHODS[name]
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        found: type[Method] = getattr(import_module(module), attribute)
        return found
    return entry


def methods() -> dict[str, type[Method]]:
    """All of them."""
    return {name: method_named(name) for name in METHODS}


def register(method: type[Method]) -> None:
    """Adds a method under its `name`, for `metasum merge` and `metasum sum`.

    Raises:
        UsageError: the name is taken, or cannot be part of a folder's; or one of its settings is called as another
            method's and takes other values.
    """
    check_folder_name("a merging method called", method.name)
    if method.name in METHODS:
        raise UsageError(f"there is a merging method {method.name!r} already.")
    taken = {option.name: option for other in methods().values() for option in options_of(other.Config)}
    for option in options_of(method.Config):
        other = taken.get(option.name, option)
        if (other.type, other.many) != (option.type, option.many):
            raise UsageError(
                f"{method.name}: its {option.flag} takes {option.takes}, and another method's {other.takes}; rename it."
            )
    METHODS[method.name] = method
