"""A call of a function, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Call(NamedTuple):
    """One call of a function."""

    name: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    result: Any

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)
