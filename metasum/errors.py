"""What can go wrong through no fault of the code, each said in one sentence that a user can act on."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_of_a_command = ContextVar("of a command", default=False)


@contextmanager
def in_a_command() -> Iterator[None]:
    """Within the block errors speak of flags."""
    token = _of_a_command.set(True)
    try:
        yield
    finally:
        _of_a_command.reset(token)


def worded(python: str, command: str) -> str:
    """What is to be written: `command` where a command is at work ("--base FILE"), else `python` ("base=")."""
    return command if _of_a_command.get() else python


class MetaSumError(Exception):
    """Something failed, through no fault of the code; all of metasum's errors are of this kind.

    The command line prints its sentence and exits with `exit_code`.

    Example:
        >>> try:
        ...     merged = metasum.merge([net_a, net_b], "regmean")
        ... except metasum.MetaSumError as error:
        ...     print(error)  # "regmean looks at images of each network's data: …"
    """

    exit_code = 1


class UsageError(MetaSumError):
    """What was asked for makes no sense as written. The command line prints the sentence and exits with 2."""

    exit_code = 2


class DatasetError(MetaSumError):
    """A dataset is not there, or is not what it should be."""


class ArchitectureError(MetaSumError):
    """Parameter sets that do not fit together: the first parameter that differs is named, with both shapes."""


class CheckpointError(MetaSumError):
    """A run folder, checkpoint or weights file is missing, damaged, or of something else."""


class StorageError(MetaSumError):
    """A file could not be written. Nothing half-written is left behind."""


class OccupiedError(MetaSumError):
    """Another process works in a run folder; nothing was changed. Studies try again later.

    Attributes:
        folder: the run folder.
        owner: who works there, "process 17 on node3".
    """

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(folder, owner)
        self.folder, self.owner = folder, owner

    def __str__(self) -> str:
        return f"{self.owner} works in {self.folder}; wait until it has ended, or choose another --name or --out."


class DivergenceError(MetaSumError):
    """A loss, a weight or a network's answer is NaN or infinite."""


class Interrupted(MetaSumError):  # noqa: N818 (no error of anybody's)
    """The user, or the machine's scheduler, asked a run to stop; it saved its state first."""

    exit_code = 130


class Cancelled(MetaSumError):  # noqa: N818 (no error of anybody's)
    """The user, or the machine's scheduler, asked a command to stop; it leaves nothing behind."""

    exit_code = 130

    def __init__(self, sentence: str = "interrupted; nothing was written.") -> None:
        super().__init__(sentence)


@contextmanager
def told_of(what: str) -> Iterator[None]:
    """Errors in the block begin with what they are of ("b.npz: "), where they do not name it themselves."""
    try:
        yield
    except (UsageError, DivergenceError) as error:
        if str(error).startswith(what):
            raise
        raise type(error)(f"{what}: {error}") from error


def reason(error: BaseException) -> str:
    """The first line of what another library's error says, or its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def shown(value: Any) -> str:
    """`value` as Python writes it, cut where it is long or nested."""
    try:
        return _SHOWN.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a {type(value).__name__}"


_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother, _SHOWN.maxlong = 3, 100, 100, 40


def unknown(kind: str, name: str, known: Iterable[str], *, more: str = "") -> UsageError:
    """The error for a name that nobody registered, with all known names, and the nearest where one is near.

    Args:
        kind: what was named, for instance "dataset".
        name: as the user wrote it.
        known: every name that would have worked.
        more: a closing sentence on where such names come from.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:200], names, n=1, cutoff=0.6)
    every = f"known: {', '.join(names)}."
    hint = f"did you mean {near[0]!r}? K{every[1:]}" if near else every
    return UsageError(f"unknown {kind} {shown(name)}; {hint}{' ' + more if more else ''}")
