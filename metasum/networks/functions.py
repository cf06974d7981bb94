"""A network that a Python function makes: `FILE.py:FUNCTION`, or `package.module:FUNCTION`.

On the command line such a name runs the user's own code. A run folder or a weights file that holds one must not, just
because somebody opens it: its name is heeded where this user has given it before (see `named`), and else refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from metasum.errors import MetaSumError, UsageError
from metasum.files import cache_folder, make_folder, write_text
from metasum.plugins import line_in, was_run

_modules: dict[tuple[str, int, int], ModuleType] = {}  # by path, time and size: run once
_named: set[str] = set()


def is_function(name: str) -> bool:
    """Whether a network's name is a function's, and not one that somebody registered."""
    return ":" in name


def absolute(name: str) -> str:
    """The same name, with the file's whole path, so that it can be found from anywhere."""
    where, function = _parts(name)
    return f"{Path(where).expanduser().resolve()}:{function}" if _is_file(where) else name


def named(name: str) -> str:
    """Remembers that this user gave the name, for this process and, in the cache folder, for later ones.

    Returns:
        The name as files should hold it, see `absolute`.

    Raises:
        UsageError: there is no such file, module or function, or the file raises.
    """
    name = absolute(name)
    function_called(name)
    if name not in _named:
        _named.add(name)
        with contextlib.suppress(MetaSumError, OSError, RuntimeError):  # then it has to be given again the next time
            make_folder(_memory(name).parent)
            write_text(_memory(name), name + "\n")
    return name


def check_named(name: str, holder: Path | str) -> None:
    """Raises UsageError where nobody on this machine has given the name that `holder`, a file, wants to be run."""
    where, _ = _parts(name)
    given = name in _named or (_is_file(where) and was_run(Path(where))) or _memory(name).is_file()
    if not given:
        raise UsageError(
            f"{holder} says that {name} makes its network, and nobody has named that here, so it is not run; "
            + (f"where you trust it, add --plugin {where}." if _is_file(where) else "train with it here first.")
        )


def make_network(name: str, **facts: Any) -> nn.Module:
    """The module that the function returns; its weights come from PyTorch's global random state.

    Args:
        name: `FILE.py:FUNCTION` or `package.module:FUNCTION`; a class does, too.
        facts: what is known of the network to be made ("num_classes", "in_channels", …); the function gets those that
            are among its parameters.

    Raises:
        UsageError: there is no such file, module or function; it needs something else, raises, or returns no module.
    """
    where, _ = _parts(name)
    function = function_called(name)
    known = {key: value for key, value in facts.items() if key in parameters_of(name)}
    try:
        with _importable(where):
            network = function(**known)
    except (MetaSumError, KeyboardInterrupt):
        raise
    except BaseException as error:
        line = line_in(Path(where).expanduser().resolve(), error)
        raise UsageError(f"{name} failed{line}: {error!r}.") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name} returned a {type(network).__name__}, not a torch.nn.Module.")
    return network


def parameters_of(name: str) -> tuple[str, ...]:
    """Names of the function's parameters; raises UsageError as `function_called` does."""
    try:
        parameters = inspect.signature(function_called(name)).parameters
    except (TypeError, ValueError):  # of some functions written in C
        return ()
    return tuple(name for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))


def function_called(name: str) -> Callable[..., Any]:
    """The function itself; raises UsageError where there is no such file, module or function, or the file raises."""
    where, function = _parts(name)
    module = _run(Path(where).expanduser().resolve()) if _is_file(where) else _imported(where)
    found = getattr(module, function, None)
    if not callable(found):
        own = (key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_"))
        told = ", ".join(sorted(own)) or "none"
        raise UsageError(f"{where} has no function {function!r}; its functions: {told}.")
    return found  # type: ignore[no-any-return]  # callable says no more


def _parts(name: str) -> tuple[str, str]:
    where, _, function = name.rpartition(":")
    if not where or not function.isidentifier():
        raise UsageError(f"a network's function is FILE.py:FUNCTION or package.module:FUNCTION, not {name!r}.")
    return where, function


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where or "\\" in where


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}, whose function should make the network.")
    key = (str(path), path.stat().st_mtime_ns, path.stat().st_size)
    if key in _modules:
        return _modules[key]
    own = f"metasum_file_{path.stem}_{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; it should end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses and pickles look there
    try:
        with _importable(str(path)):
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{path} is not Python: {error.msg} (line {error.lineno}).") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"{path} failed{line_in(path, error)}: {error!r}.") from error
    _modules[key] = module
    return module


def _imported(where: str) -> ModuleType:
    try:
        with _importable(where):
            return import_module(where)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if where == missing or where.startswith(missing + "."):
            raise UsageError(f"there is no module {where!r} to import; a file is named with its .py.") from error
        raise UsageError(f"{where} cannot be imported: {error}.") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"{where} failed when it was imported: {error!r}.") from error


@contextlib.contextmanager
def _importable(where: str) -> Iterator[None]:
    """What lies beside the file, or in the current folder, can be imported, as in a script."""
    folder = str(Path(where).parent if _is_file(where) else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _memory(name: str) -> Path:
    """The file that stands for a name given; a module counts in the folder where it was given only."""
    here = "" if _is_file(_parts(name)[0]) else f" {Path.cwd()}"
    return cache_folder() / "networks" / hashlib.sha256((name + here).encode()).hexdigest()[:32]
