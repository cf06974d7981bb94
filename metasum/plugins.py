"""Other people's code: entry points of installed packages, and files named with `--plugin`."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from metasum.errors import MetaSumError, UsageError

GROUPS = ("metasum.tasks", "metasum.baselines")
_called: set[str] = set()  # each function registers once in a process
_run: set[Path] = set()  # the plug-in files that this process was told to run
_done: set[Path] = set()  # those that ran to their end
_at_work: list[str] = []  # the entry points or files that are being run


def registrar() -> str:
    """Who registers something just now: an entry point, a plug-in file, or else "Python"."""
    return _at_work[-1] if _at_work else "Python"


@contextmanager
def _working(who: str) -> Iterator[None]:
    _at_work.append(who)
    try:
        yield
    finally:
        _at_work.pop()


def load_entry_points() -> None:
    """Calls, once, the function behind every entry point of the groups `metasum.tasks` and `metasum.baselines`.

    Raises:
        UsageError: one of them failed; it is named.
    """
    for group in GROUPS:
        for entry in entry_points(group=group):
            if entry.value in _called:
                continue
            _called.add(entry.value)
            try:
                with _working(entry.value):
                    entry.load()()
            except (MetaSumError, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise UsageError(f"the entry point {entry.name!r} ({entry.value}) failed: {error!r}.") from error


def run_plugin(path: Path) -> None:
    """Runs a Python file, which registers datasets, pairs or learners; once in a process, however often it is named.

    Raises:
        UsageError: there is no such file, or it raised; its error and line are in the message.
    """
    if not path.is_file():
        raise UsageError(f"there is no plugin file {path}.")
    _run.add(path.resolve())
    if path.resolve() in _done:
        return
    try:
        with _working(str(path)):
            runpy.run_path(str(path), run_name="metasum_plugin")
    except (MetaSumError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        raise UsageError(f"the plugin file {path} is not Python: {error.msg} (line {error.lineno}).") from error
    except BaseException as error:
        raise UsageError(f"the plugin file {path} failed{line_in(path, error)}: {error!r}.") from error
    _done.add(path.resolve())


def taken(what: str, by: str) -> UsageError:
    """The error for a name that is registered already, `by` somebody; who registers it now is named, too."""
    now = registrar()
    again = "" if now in ("Python", by) else f", and {now} registers it again"
    return UsageError(f"there is a {what} already (from {by}){again}.")


def was_run(path: Path) -> bool:
    """Whether this process was told to run the file."""
    return path.resolve() in _run


def line_in(path: Path, error: BaseException) -> str:
    """Words for the last line of a file that an error came through; none where it did not."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" in line {lines[-1]}" if lines else ""
