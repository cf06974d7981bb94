"""`metasum sweep`: a W&B sweep file, run here."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

from metasum.arguments import checked
from metasum.errors import UsageError
from metasum.files import check_folder_name, make_folder
from metasum.results.sweep import SweepResult
from metasum.sweeps.config import SweepConfig
from metasum.sweeps.course import Course, Starter
from metasum.sweeps.page import write_sweep_report
from metasum.sweeps.process import TrialProcess
from metasum.sweeps.queue import TrialQueue
from metasum.sweeps.storage import Clock, open_storage
from metasum.sweeps.sweep_file import SweepFile, read_sweep_file
from metasum.training.interruption import Interruption
from metasum.training.progress import Display, SilentDisplay


@checked
def sweep(
    file: Path | str,
    config: SweepConfig | None = None,
    *,
    arguments: Sequence[str] = (),
    out: Path | str = "runs",
    display: Display | None = None,
    start: Starter = TrialProcess,
    clock: Clock = time,
) -> SweepResult:
    """Runs a W&B sweep file on this machine, without an account; calling it again goes on where it was stopped.

    Any number of processes, on any number of machines that share the storage, may run one sweep: every trial is run
    to its end once. A trial that fails is written down, and the others go on.

    Args:
        file: the sweep file.
        config: how many trials, how many at a time, where they are written down, …
        arguments: further ones of the file's command, the same for all trials.
        out: the sweep's folder is `<out>/sweeps/<name>`.
        display: is told about progress.
        start: starts a trial.
        clock: tells the time, and waits.

    Returns:
        What results.json holds.

    Example:
        >>> result = sweep("wandb_sweeps/sum_weight.yaml", SweepConfig(count=10), out="runs")

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; Interrupted where the user stopped it.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("a sweep without an account needs the package optuna: pip install 'metasum[sweep]'.")
    config, asked = config or SweepConfig(), read_sweep_file(Path(file))
    count = _count(config, asked)
    name = asked.name if config.name is None else config.name
    check_folder_name("--name", name)
    folder = Path(out) / "sweeps" / name
    with open_storage(config.storage, folder, clock=clock) as shared, Interruption() as interruption:
        make_folder(folder)
        queue = TrialQueue(shared, asked, config, name=name, count=count, arguments=arguments, clock=clock)
        course = Course(queue, asked, folder, list(arguments), config.jobs, display or SilentDisplay(), start, clock)
        try:
            course.run(interruption)
        finally:
            course.stop()
            results = course.write(final=True)
            if config.report:
                write_sweep_report(folder)
    return results


def _count(config: SweepConfig, file: SweepFile) -> int:
    """How many trials there are: the least of what --count, the grid and the file's run_cap say."""
    ends = [number for number in (config.count, file.grid_size, file.cap) if number is not None]
    if not ends:
        raise UsageError(f"method {file.method} of {file.name}.yaml has no end: --count N says how many trials.")
    return min(ends)
