"""A parameter of a YAML file, and its value for one tensor: scalars, gradients over layers, filters by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from metasum.errors import UsageError

Settings: TypeAlias = Mapping[str, Any]
"""From a parameter's name to what the file says of it."""
SCALARS = (bool, int, float, str)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What a method reads of a file."""

    name: str
    kind: Literal["number", "count", "flag"]
    default: Any = None
    required: bool = False
    each: Literal["", "network", "input"] = ""
    """Whether every network has one: those beside the base, or every input. "": one for all."""

    def value(self, given: Any, place: str) -> Any:
        """A scalar as what it means; raises UsageError where it is no such thing."""
        if self.kind == "flag":
            known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False}
            flag = (known | {"0": False}).get(str(given).lower())
            if flag is None:
                raise UsageError(f"{place}: {self.name} is true or false, not {given!r}.")
            return flag
        try:
            if isinstance(given, bool):
                raise ValueError
            number = float(given)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{place}: {self.name} is a number, not {given!r}.") from error
        if not math.isfinite(number) or (self.kind == "count" and not number.is_integer()):
            raise UsageError(f"{place}: {self.name} cannot be {given!r}.")
        return int(number) if self.kind == "count" else number

    def of_tensor(self, scopes: Iterable[Settings], *, tensor: str, t: float, place: str) -> Any:
        """Its value for one tensor; None where nothing is said and nothing is the default.

        Args:
            scopes: what is said of it, the narrowest first: the first that says something for the tensor counts.
            tensor: its name, in which a filter has to occur.
            t: where in its slice the tensor's layer lies, from 0 to 1.
            place: of the file, for errors.

        Raises:
            UsageError: nothing is said, and has to be; or a value is none.
        """
        for scope in scopes:
            if scope.get(self.name) is not None:
                value = self._evaluated(scope[self.name], tensor, t, place)
                if value is not None:
                    return value
        if self.required:
            raise UsageError(f"{place} says no {self.name} for {tensor!r}, and has to; give it under parameters.")
        return self.default

    def _evaluated(self, setting: Any, tensor: str, t: float, place: str) -> Any:
        if isinstance(setting, SCALARS):
            return self.value(setting, place)
        entries = setting if isinstance(setting, list) else [setting]
        if all(isinstance(entry, SCALARS) for entry in entries):
            return self._interpolated([self.value(entry, place) for entry in entries], t, place) if entries else None
        for entry in entries:
            wanted = self._filter_of(entry, place)
            if wanted in (None, "*") or (tensor and str(wanted) in tensor):
                return self._evaluated(entry["value"], tensor, t, place)
        return None

    def _filter_of(self, entry: Any, place: str) -> str | None:
        if isinstance(entry, dict) and "value" in entry and not entry.keys() - {"value", "filter"}:
            wanted = entry.get("filter")
            if wanted is None or isinstance(wanted, str):
                return wanted
        raise UsageError(
            f"{place}: {self.name} is a value, a list of values over the layers, or a list of "
            f"{{filter: …, value: …}}, not {entry!r}."
        )

    def _interpolated(self, values: list[Any], t: float, place: str) -> Any:
        if self.kind == "flag":
            return values[int(t * (len(values) - 1))]
        scaled = t * (len(values) - 1)
        first = int(scaled)
        share = scaled - first
        found = (1 - share) * values[first] + share * values[min(len(values) - 1, first + 1)]
        return self.value(found, place)
