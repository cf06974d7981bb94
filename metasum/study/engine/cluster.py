"""The cells of a study on Dask's scheduler, on whatever workers it has: this machine's, SLURM's or Kubernetes'."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from metasum.errors import UsageError
from metasum.study.engine.cell import Cell, Outcome
from metasum.study.engine.cluster_course import Course
from metasum.study.engine.connecting import LOCAL, common_ground, connected
from metasum.study.engine.display import StudyDisplay
from metasum.study.engine.on_worker import Terms
from metasum.study.engine.processes import PRELOADED
from metasum.study.engine.schedule import Schedule


@dataclass(frozen=True)
class Cluster:
    """As many cells at a time as the cluster's workers have threads (or GPUs).

    A cell is handed to the scheduler once all that it needs has ended, with the results that it needs: so results that
    have come in are lost with no worker. On the worker it has a process of its own. If the worker dies, Dask hands the
    cell to another one, where it goes on from its last saved state; Dask also takes workers for dead that say nothing
    for five minutes (its setting `distributed.scheduler.worker-ttl`).

    Raises:
        UsageError: Dask is not installed, or `jobs` is given for a cluster that has its own number.
    """

    apart: ClassVar[bool] = True
    scheduler: str
    """Its address, its file, or "local": one that lives as long as the study, with `jobs` workers on this machine."""
    out: Path
    """The folder of all runs; all workers have to see it under the same path."""
    jobs: int = 1
    device: str = "auto"
    """What cells run on; unless "cpu", each of them takes one GPU of workers that offer any."""
    plugins: tuple[Path, ...] = ()
    """Files that are run in each cell's process first; entry points are loaded anyway."""
    poll: float = 5.0
    """Seconds between two tries at a cell that another process is working on."""
    silence: float = 900.0
    """Seconds after which a cell's process that neither works nor says anything is killed, and the cell tried anew."""
    preload: tuple[str, ...] = PRELOADED
    """Modules that are imported once for all cells of a worker."""

    def __post_init__(self) -> None:
        if importlib.util.find_spec("distributed") is None:
            raise UsageError("--scheduler needs the package distributed: pip install 'metasum[dask]'.")
        if self.jobs > 1 and self.scheduler != LOCAL:
            raise UsageError(
                f"--jobs says nothing to the scheduler {self.scheduler}: its workers do as many as they can."
            )

    def run(self, cells: Sequence[Cell], *, display: StudyDisplay) -> dict[str, Outcome]:
        """See `Engine`.

        Raises:
            MetaSumError: no scheduler answers, or not any more; a worker does not share the folder, or has other
                versions.
        """
        schedule = Schedule(cells, poll=self.poll, display=display)
        with common_ground(self.out) as ground, connected(self.scheduler, jobs=self.jobs) as client:
            terms = Terms(ground, self.plugins, Path.cwd(), self.silence, self.preload, gpu=self.device != "cpu")
            course = Course(client, self.scheduler, terms, schedule, display)
            return schedule.carried_out(course.run, end=course.cancel)
