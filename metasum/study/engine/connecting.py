"""The way to a Dask scheduler, and what is laid down for its workers to find."""

from __future__ import annotations

import contextlib
import json
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasum.errors import MetaSumError, UsageError, reason
from metasum.files import make_folder, write_text
from metasum.study.engine.on_worker import Ground, versions
from metasum.study.engine.processes import shares

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"


@contextlib.contextmanager
def connected(scheduler: str, *, jobs: int) -> Iterator[Client]:
    """A client of the scheduler.

    Args:
        scheduler: its address, its file, or "local" for one that ends with the block.
        jobs: workers of a local one, each for one cell.

    Raises:
        UsageError: it is no address, and no scheduler's file.
        MetaSumError: it does not answer.
    """
    from distributed import Client, LocalCluster
    from distributed.versions import VersionMismatchWarning

    with contextlib.ExitStack() as stack:
        where = scheduler
        if scheduler == LOCAL:
            # workers without processes: every cell has one, as everywhere
            sizes: dict[str, Any] = {"n_workers": shares(jobs)[0], "threads_per_worker": 1, "memory_limit": 0}
            nothing: Any = None  # no dashboard, which its types do not know
            cluster: Any = stack.enter_context(LocalCluster(processes=False, dashboard_address=nothing, **sizes))
            where = cluster.scheduler_address
        elif "://" not in scheduler:
            where = _address_in(Path(scheduler))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VersionMismatchWarning)  # `unsuited` says it in a sentence
                client = Client(where, set_as_default=False)
        except ValueError as error:
            raise UsageError(
                f"--scheduler {scheduler} is no address such as tcp://HOST:8786: {reason(error)}."
            ) from error
        except (OSError, TimeoutError) as error:
            raise MetaSumError(f"no Dask scheduler answers at {where}: {reason(error)}") from error
        yield stack.enter_context(client)


def _address_in(file: Path) -> str:
    """What a scheduler has written into the file that it was given with --scheduler-file."""
    try:
        return str(json.loads(file.read_text())["address"])
    except OSError as error:
        raise UsageError(
            f"--scheduler takes an address such as tcp://HOST:8786, the file that `dask scheduler --scheduler-file` "
            f"writes, or local; the file {file} cannot be read ({error.strerror or error})."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--scheduler: {file} is not what `dask scheduler --scheduler-file` writes.") from error


@contextlib.contextmanager
def common_ground(out: Path) -> Iterator[Ground]:
    """For the block, a file in the folder of runs by which workers see that it is the same folder."""
    text = f"metasum-{secrets.token_hex(8)}"
    token = out.absolute() / f".{text}"
    make_folder(out)
    write_text(token, text)
    try:
        yield Ground(token, text, versions())
    finally:
        token.unlink(missing_ok=True)
