"""Objects by name, each imported when it is first asked for: a listing of names and summaries waits for nobody."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from metasum.errors import unknown
from metasum.files import check_folder_name
from metasum.plugins import taken

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered class with the attributes `name` and `summary`."""

    home: str | Callable[[], T]
    """Where it is: "module:Class", or a function that returns it."""
    source: str = "metasum"
    """Who registered it, for listings."""
    told: str | None = None
    """One sentence for listings [default: the object's own `summary`]."""
    group: str = ""
    """Which of several kinds it is, for listings and for who asks for all of a kind."""

    def load(self) -> T:
        """The object itself."""
        if callable(self.home):
            return self.home()
        module, _, name = self.home.partition(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]  # what the entry promises

    @property
    def summary(self) -> str:
        """One sentence for listings. A module that is not imported yet is read, not run: it may import PyTorch."""
        if self.told is not None:
            return self.told
        if callable(self.home):
            return str(getattr(self.home(), "summary", ""))
        module, _, name = self.home.partition(":")
        spec = find_spec(module)
        tree = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "summary":
                return str(ast.literal_eval(node.value))
        return ""


class Registry(Mapping[str, T], Generic[T]):
    """Names and objects of one kind. A mapping: `registry["ties"]` imports, iterating does not.

    Args:
        kind: what an object is called in errors, for instance "learner".
        entries: those of the project itself.
        more: closes the error on an unknown name: where such names come from.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry[T]], *, more: str = "") -> None:
        self.kind, self.entries, self._more = kind, dict(entries), more
        self._loaded: dict[str, tuple[Entry[T], T]] = {}

    def __getitem__(self, name: str) -> T:
        entry = self.entries[name]
        if name not in self._loaded or self._loaded[name][0] is not entry:
            self._loaded[name] = entry, entry.load()
        return self._loaded[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def named(self, name: str) -> T:
        """The object called `name`; raises UsageError, with the nearest name, where there is none."""
        if name not in self.entries:
            raise unknown(self.kind, name, self.entries, more=self._more)
        return self[name]

    def add(self, name: str, entry: Entry[T]) -> None:
        """Registers one more; raises UsageError where the name is taken, or cannot be part of a folder's."""
        check_folder_name(f"a {self.kind} called", name)
        if name in self.entries:
            raise taken(f"{self.kind} {name!r}", self.entries[name].source)
        self.entries[name] = entry
