"""Where a sweep's trials are written down, for one process or for any number of them on any number of machines."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from metasum.errors import StorageError, UsageError, reason
from metasum.files import make_folder

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

T = TypeVar("T")
WAITS = tuple(0.1 * 2**attempt for attempt in range(7))  # seconds before each further attempt, 12.7 in all
PASSING = re.compile(r"already exists|\b(dead)?lock(ed)?\b", re.IGNORECASE)  # what databases say in these cases


class Clock(Protocol):
    """What tells a sweep the time: the module `time`; a test has its own, which waits for nothing."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Waits."""


@contextmanager
def open_storage(where: str | None, folder: Path, *, clock: Clock = time) -> Iterator[BaseStorage]:
    """Optuna's storage, closed in the end.

    Args:
        where: a database's URL (`sqlite:///FILE`, `postgresql://USER@HOST/NAME`), or the path of a journal file, which
            may lie on a folder that machines share [default: `journal.log` in `folder`].
        folder: of the sweep.
        clock: waits before a further attempt, where other processes make the same tables at this moment.

    Raises:
        UsageError: a URL that nobody knows, or whose driver is not installed.
        StorageError: it cannot be opened, or failed later on, inside the block.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    storage = _database(where, clock) if where is not None and "://" in where else _journal(where, folder)
    try:
        yield storage
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(f"{_shown(where or '')} does not answer: {reason(error.__cause__ or error)}.") from error
    finally:
        storage.remove_session()
        engine = getattr(storage, "engine", None)
        if engine is not None:
            engine.dispose()


def _database(url: str, clock: Clock) -> BaseStorage:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    address = re.sub("^postgresql://", "postgresql+psycopg://", url)  # psycopg 3, which is what the extra installs
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return patiently(lambda: RDBStorage(address, engine_kwargs=options), clock)
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(f"--storage {_shown(url)}: no such kind of database.") from error
    except ImportError as error:
        extra = "pip install 'metasum[postgresql]'" if url.startswith("postgresql") else reason(error)
        raise UsageError(f"--storage {_shown(url)} needs a driver: {extra}.") from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        raise StorageError(f"cannot open {_shown(url)}: {reason(error)}.") from error


def _journal(where: str | None, folder: Path) -> BaseStorage:
    from optuna.storages import JournalStorage

    from metasum.sweeps.journal import Journal, holds_a_line

    path = folder / "journal.log" if where is None else Path(where)
    make_folder(path.parent)
    try:
        if where is None and any((folder / "trials").glob("*")) and not holds_a_line(path):
            raise StorageError(
                f"{path} tells nothing, though {folder / 'trials'} holds trials: name the --storage that tells of "
                "them, or take another --name."
            )
        return JournalStorage(Journal(path))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise StorageError(f"{path} cannot be opened as a sweep's journal: {reason(error)}.") from error


def patiently(make: Callable[[], T], clock: Clock) -> T:
    """What `make` makes; tried again, a little later, while other processes that make the same thing stand in its way.

    Every other error is raised at once: waiting helps against no wrong address, missing driver or missing permission.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError, IntegrityError

    for wait in WAITS:
        try:
            return make()
        except (DBAPIError, StorageInternalError, RuntimeError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            said = str(getattr(cause, "orig", cause))  # without the statement, which holds names that users chose
            if not isinstance(cause, IntegrityError) and not PASSING.search(said):
                raise
        clock.sleep(wait)
    return make()


def _shown(url: str) -> Any:
    """The URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.split("@")[-1]
