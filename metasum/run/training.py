"""One run's course, from what was asked for to its result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

from metasum.arguments import checked
from metasum.baselines.registry import learner_named
from metasum.errors import UsageError
from metasum.learners.learner import Start
from metasum.plugins import load_entry_points
from metasum.results.run import RunResult
from metasum.run.course import Course, Where
from metasum.run.finishing import reported
from metasum.run.initialisation import learnt_initialisation
from metasum.run.parts import check_pieces
from metasum.run.plan import Plan, resolve
from metasum.run.request import Request
from metasum.tasks.loading import load_dataset
from metasum.training.opening import check_name
from metasum.training.optimisation import make_fabric
from metasum.training.processes import Processes
from metasum.training.progress import Display, SilentDisplay
from metasum.training.tracking import check_tracking
from metasum.training.wandb_runs import TrackerTroubles
from metasum.types import Dataset, Sides


@checked
def train(
    request: Request | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    download: bool = False,
    report: bool = True,
    display: Display | None = None,
) -> RunResult:
    """One run, from what was asked for to its result.

    Args:
        request: the settings that were given [default: none: the embedded pair].
        out: folder under which `<target>+<support>/<name>` is made.
        name: of the run's folder [default: `<learner>-seed<seed>`, with W&B's id behind it under a sweep's agent].
        resume: continue an unfinished run with the same settings; a finished one is returned as it is.
        overwrite: replace a run that is there.
        download: let torchvision fetch a dataset that is not there.
        report: draw report.html at the end.
        display: what is told about progress [default: nothing].

    Returns:
        What result.json holds.

    Example:
        >>> result = train(settings(target="digits", support="letters", steps=50), out="runs", name="first")
        >>> result.accuracy.target.after

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; nothing is left half-written.
    """
    load_entry_points()
    request = request or Request()
    check_name(name, resume=resume, overwrite=overwrite)
    learner_named(request["learner"])
    path = Path(out) / f"{request['target']}+{request['support']}" / (name or _default_name(request))
    root = Path(request["data_root"])
    datasets = Sides(*(load_dataset(request[side], root=root, download=download) for side in Sides._fields))
    where = Where(path, Path(out), resume=resume, overwrite=overwrite, report=report)
    return run_in(where, request, datasets, download=download, display=display)


def _default_name(request: Request) -> str:
    """`<learner>-seed<seed>`; under a sweep's agent, whose runs differ in anything, W&B's id is added."""
    trial = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    return f"{request['learner']}-seed{request['seed']}" + (f"-{trial}" if trial else "")


def run_in(
    where: Where,
    request: Request,
    datasets: Sides[Dataset],
    *,
    download: bool = False,
    display: Display | None = None,
    troubles: TrackerTroubles | None = None,
) -> RunResult:
    """One run in a folder; see `train`. `troubles`: with trackers, of the study that the run belongs to."""
    display = display or SilentDisplay()
    plan = resolve(request, datasets)
    check_tracking(plan.tracking)
    together = Processes(make_fabric(plan.optimisation.device, plan.optimisation.precision, processes=plan.processes))
    _check_shared(plan, together)
    display = display if together.first else SilentDisplay()
    if plan.learner_class.start is Start.LEARNT:
        # what was stopped may have been the learning of the initialisation
        where = dataclasses.replace(where, resume=None if where.resume else where.resume)
        plan = learnt_initialisation(
            plan, request, out=where.out, download=download, display=display, troubles=troubles
        )
    course = Course(where, plan, datasets, together, display)
    with contextlib.ExitStack() as stack:
        run = together.agreed(lambda: stack.enter_context(course.opened()))
        if run.finished:
            display.note(f"{where.path} is finished already.")
            return together.agreed(lambda: reported(run, run.result(RunResult), where.report))
        return course.go(run, troubles)


def _check_shared(plan: Plan, together: Processes) -> None:
    """Raises UsageError for a run that several processes cannot share as it is asked for."""
    if plan.processes.fsdp:
        check_pieces(plan, together)
    if together.several:
        together.check_batch(plan.data.batch_size)
        if plan.learner_class.start is Start.LEARNT and plan.network.init is None:
            raise UsageError("--devices: meta-train the initialisation by itself first, and give it with --init.")
