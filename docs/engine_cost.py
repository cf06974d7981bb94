"""What the engine of studies on Dask takes itself: cells without work and without a process of their own.

    taskset -c 1 python docs/engine_cost.py --cells 10000

Scheduler and two workers are in this process. Prints the processor's milliseconds for each cell, and by how much memory
has grown for each, after a first tenth of as many cells.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from distributed import LocalCluster, get_worker

from metasum.study.engine import cluster_course
from metasum.study.engine.cell import Cell
from metasum.study.engine.cluster import Cluster
from metasum.study.engine.display import SilentStudy
from metasum.study.engine.on_worker import Order, Terms
from metasum.training.progress import Display


@dataclass(frozen=True)
class Nothing:
    """Counts the cells that it needs."""

    def __call__(self, needed: Mapping[str, Any], display: Display) -> int:
        return len(needed)


def at_once(order: Order, terms: Terms) -> Any:
    """In the place of `run_order`: does a cell's work where it is, and says as much of it."""
    worker = get_worker()
    worker.log_event(terms.ground.text, {"try": order.number, "kind": "begun", "value": "here"})
    work, needed = pickle.loads(order.pickled)
    found = work(needed, None)
    worker.log_event(terms.ground.text, {"try": order.number, "kind": "gone", "value": None})
    return found


def study(count: int) -> Sequence[Cell]:
    """Cells in threes, the third of which needs the two before it, as a sum needs its networks."""
    threes = [(f"{number - 2}", f"{number - 1}") if number % 3 == 2 else () for number in range(count)]
    return [Cell(str(number), Nothing(), needs) for number, needs in enumerate(threes)]


def main() -> None:
    """Runs a small study, then the large one, and prints what the large one took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    cells = parser.parse_args().cells
    cluster_course.run_order = at_once  # type: ignore[attr-defined]  # which it imports
    own = psutil.Process()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
    ):
        engine = Cluster(cluster.scheduler_address, Path(folder))
        for count in (cells // 10, cells):
            memory, started = own.memory_info().rss, time.process_time()
            found = engine.run(study(count), display=SilentStudy())
            took, grown = time.process_time() - started, own.memory_info().rss - memory
            if len(found) < count or set(found.values()) != {0, 2}:
                raise SystemExit("some cells came to nothing")
    sys.stdout.write(f"{1e3 * took / cells:.1f} ms and {grown / cells / 1e3:.1f} KB for each of {cells:,} cells\n")


if __name__ == "__main__":
    main()
