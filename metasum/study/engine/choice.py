"""Which engine runs a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metasum.errors import UsageError
from metasum.study.engine.cluster import Cluster
from metasum.study.engine.processes import Processes
from metasum.study.engine.sequential import Engine, Sequential


def engine_for(
    jobs: int,
    *,
    scheduler: str | None = None,
    out: Path = Path("runs"),
    device: str = "auto",
    plugins: Sequence[Path] = (),
) -> Engine:
    """The engine that runs so many cells at a time, or as many as a Dask cluster has room for.

    Args:
        jobs: cells at a time.
        scheduler: of Dask: its address, its file, or "local" for one that lives as long as the study [default: no
            Dask].
        out: the folder of all runs, which a cluster's machines have to share.
        device: what cells run on; one that may be a GPU is asked of a cluster that offers some.
        plugins: files that are run first in each process.

    Raises:
        UsageError: `jobs` is not positive, or cannot be had; Dask is not installed.
    """
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}.")
    files = tuple(Path(file).resolve() for file in plugins)
    if scheduler is not None:
        return Cluster(scheduler, Path(out), jobs=jobs, device=device, plugins=files)
    return Sequential() if jobs == 1 else Processes(jobs, plugins=files)
