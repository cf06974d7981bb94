"""YAML that somebody else wrote, read into plain values: bounded in size, without repeated keys, running nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metasum.errors import UsageError, reason

LARGEST = 2**20  # bytes
MOST_VALUES = 100_000  # with every alias written out


def read_yaml(path: Path) -> tuple[str, dict[str, Any]]:
    """The file's text, and the mapping that it holds.

    Raises:
        UsageError: it cannot be read, is no YAML, is too large with its aliases written out, or names a key twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UsageError(f"{path} is larger than {LARGEST // 2**20} MiB, which no merge takes to be said.")
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or reason(error)}.") from error
    return text, parsed(text, str(path))


def parsed(text: str, place: str) -> dict[str, Any]:
    """What a text in YAML holds; `place` is where it is from. Raises UsageError as `read_yaml` does."""
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _check(node, place)
            value = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UsageError(f"{place} is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise UsageError(f"{place} is nested too deeply to be read.") from error
    except ValueError as error:  # a date, a number that is none
        raise UsageError(f"{place} is not YAML that can be read: {reason(error)}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{place} says no merge: it holds no keys like merge_method and models.")
    return value


def _check(root: Any, place: str) -> None:
    """Raises UsageError where a key stands twice in one mapping, or where aliases make more than can be held."""
    from yaml import ScalarNode

    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(node: Any) -> int:
        if id(node) in inside:
            raise UsageError(f"{place}: an alias holds itself.")
        if id(node) not in sizes:
            inside.add(id(node))
            if isinstance(node, ScalarNode):
                sizes[id(node)] = 1
            else:
                _check_keys(node, place)
                sizes[id(node)] = 1 + sum(map(size, _below(node)))
            inside.remove(id(node))
        if sizes[id(node)] > MOST_VALUES:
            raise UsageError(f"{place} holds more than {MOST_VALUES} values, with its aliases written out.")
        return sizes[id(node)]

    size(root)


def _below(node: Any) -> Iterator[Any]:
    for entry in node.value:
        yield from entry if isinstance(entry, tuple) else (entry,)


def _check_keys(node: Any, place: str) -> None:
    pairs = [entry for entry in node.value if isinstance(entry, tuple)]
    keys = Counter(key.value for key, _ in pairs if isinstance(key.value, str))
    for key, times in keys.items():
        if times > 1:
            line = node.start_mark.line + 1
            raise UsageError(f"{place} says {key!r} twice in what begins at line {line}; leave one out.")
