"""Where a sweep's trials are written down, for one process or for any number of them on any number of machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from metasum.errors import StorageError, UsageError, reason
from metasum.files import make_folder

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

T = TypeVar("T")
ATTEMPTS = 8  # several processes that make the tables of one database at once stand in each other's way


@contextmanager
def open_storage(where: str | None, folder: Path) -> Iterator[BaseStorage]:
    """Optuna's storage, closed in the end.

    Args:
        where: a database's URL (`sqlite:///FILE`, `postgresql://USER@HOST/NAME`), or the path of a journal file, which
            may lie on a folder that machines share [default: `journal.log` in `folder`].
        folder: of the sweep.

    Raises:
        UsageError: a URL that nobody knows, or whose driver is not installed.
        StorageError: it cannot be opened.
    """
    storage = _database(where) if where is not None and "://" in where else _journal(where, folder)
    try:
        yield storage
    finally:
        storage.remove_session()
        engine = getattr(storage, "engine", None)
        if engine is not None:
            engine.dispose()


def _database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return patiently(lambda: RDBStorage(_with_driver(url), engine_kwargs=options))
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(f"--storage {_shown(url)}: no such kind of database.") from error
    except ImportError as error:
        extra = "pip install 'metasum[postgresql]'" if url.startswith("postgresql") else reason(error)
        raise UsageError(f"--storage {_shown(url)} needs a driver: {extra}.") from error
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"cannot open {_shown(url)}: {reason(error)}.") from error


def _journal(where: str | None, folder: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / "journal.log" if where is None else Path(where)
    make_folder(path.parent)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"{path} cannot be opened as a sweep's journal: {reason(error)}.") from error


def patiently(make: Callable[[], T]) -> T:
    """What `make` makes; tried again, a little later, while others make the same thing.

    Raises:
        SQLAlchemyError: it failed every time; `ArgumentError` and what is not a database's error at once.
    """
    from sqlalchemy.exc import ArgumentError, DBAPIError

    for attempt in range(ATTEMPTS):
        try:
            return make()
        except ArgumentError:
            raise
        except (DBAPIError, RuntimeError):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


def _with_driver(url: str) -> str:
    """`postgresql://` means psycopg 3 here, which is what the extra installs."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1) if url.startswith("postgresql://") else url


def _shown(url: str) -> Any:
    """The URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.split("@")[-1]
