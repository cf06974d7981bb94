"""Frozen values, the JSON that they are written as, and the way back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from metasum.errors import CheckpointError
from metasum.files import read_json
from metasum.results.upgrade import FORMAT, Plain, upgraded

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import CoreSchema, ErrorDetails

LEFT_OUT = {"left out": True}
"""The `metadata` of a field that, while it is None, is not in the JSON object."""


class Value:
    """What every frozen dataclass of this room inherits.

    Its fields are the keys of its JSON object, in their order, unless it says otherwise in `plain` and `arranged`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a key that is no field is an error

    def plain(self) -> dict[str, Any]:
        """The JSON object: dictionaries, lists, numbers, text and None.

        Fields marked LEFT_OUT are not in it while they are None.
        """
        own = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {field.name: to_plain(v) for field, v in own if v is not None or field.metadata != LEFT_OUT}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        """From the keys of the JSON object to the names of the fields; undoes what `plain` does."""
        return plain

    @classmethod
    def parse(cls, plain: Plain, *, where: str) -> Self:
        """The value that a JSON object holds.

        Args:
            plain: the object.
            where: it is from, for the error.

        Raises:
            CheckpointError: a field is missing, unknown or of another type; the sentence names the first.
        """
        from pydantic import ValidationError

        try:
            return _adapter(cls).validate_python(plain)  # type: ignore[no-any-return,arg-type]  # hashable
        except ValidationError as error:
            raise CheckpointError(f"{where} is damaged or of another version: {_told(error.errors()[0])}.") from error

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        from pydantic_core import core_schema

        def before(given: Any) -> Any:
            return cls.arranged(given) if isinstance(given, Mapping) else given

        schema: Any = {**handler(source)}
        ref = schema.pop("ref", None)  # by which pydantic finds it for another field: with what is done before, then
        return core_schema.no_info_before_validator_function(before, schema, ref=ref)


class Result(Value):
    """What a command found, with a file of its own."""

    kind: ClassVar[str]
    """Tells results apart in JSON."""

    def to_json(self) -> dict[str, Any]:
        """What result.json (of a study: results.json) holds, and what `--json` prints."""
        return {"format": FORMAT, "kind": self.kind, **self.plain()}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The result in a file, of this format or an older one.

        Raises:
            CheckpointError: the file is missing, damaged, of a newer version, or holds something else.
        """
        return cls.from_json(read_json(path), where=str(path))

    @classmethod
    def from_json(cls, plain: Plain, *, where: str = "the result") -> Self:
        """What `to_json` wrote, or the same of an older format; raises CheckpointError as `read` does."""
        now = dict(upgraded(plain, where=where))
        if (kind := now.pop("kind")) != cls.kind:
            raise CheckpointError(f"{where} holds the result of a {kind}, not of a {cls.kind}.")
        del now["format"]
        return cls.parse(now, where=where)


def to_plain(found: Any) -> Any:
    """Values, mappings and sequences as JSON's objects and lists; everything else as it is."""
    if isinstance(found, Value):
        return found.plain()
    if isinstance(found, Mapping):
        return {name: to_plain(each) for name, each in found.items()}
    if isinstance(found, Sequence) and not isinstance(found, str):
        return [to_plain(each) for each in found]
    return found


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """Builds values from JSON.

    It is pydantic's, which comes with W&B and whose errors name a field with all that it is nested in (cattrs' name
    none, dacite's the innermost one at most). It is imported here, since that takes a third of a second.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _told(error: ErrorDetails) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "the whole"
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "unexpected_keyword_argument":
        return f"{name} is unknown"
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}"
