"""One run's course, from what was asked for to its result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

from torch import Tensor, nn

from metasum.baselines.registry import learner_named
from metasum.errors import ArchitectureError, UsageError
from metasum.learners.learner import Start
from metasum.learners.networks import MetaSum
from metasum.networks.build import start_of
from metasum.plugins import load_entry_points
from metasum.results.run import RunResult
from metasum.run.description import describe, reopen
from metasum.run.finishing import Trained, finish, reported
from metasum.run.initialisation import learnt_initialisation
from metasum.run.parts import make_harness, make_networks, make_tasks
from metasum.run.plan import Plan, load_pair, resolve
from metasum.run.request import Request
from metasum.run.sharding import check_pieces, make_learner
from metasum.training.opening import check_name, opened
from metasum.training.optimisation import make_fabric
from metasum.training.processes import Processes
from metasum.training.progress import Display, SilentDisplay
from metasum.training.run_folder import RunFolder
from metasum.training.tracking import Tracker, check_tracking, tracked
from metasum.training.wandb_runs import TrackerTroubles
from metasum.types import Dataset, Parameters, Sides
from metasum.weights.parameters import check_same_architecture, checksum
from metasum.weights.storage import load_into, load_weights


@dataclasses.dataclass(frozen=True)
class Where:
    """The folder of a run, what becomes of one that is there, and what is left in it."""

    path: Path
    out: Path
    """Folder of all runs, where a meta-learnt initialisation is looked for, or made."""
    resume: bool | None = False
    """Continue an unfinished run of the same settings; a finished one is returned as it is. None: if it is there."""
    overwrite: bool = False
    """Replace a run that is there."""
    report: bool = True
    """Draw report.html at the end."""
    keep_weights: bool = True
    """Save the networks."""
    endpoints: Path | None = None
    """A finished run beside `path`, of the same settings, whose networks are taken as trained, for a learner that only
    merges them; the run's own folder then holds the merged network only."""


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

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; nothing is left half-written.
    """
    load_entry_points()
    request = request or Request()
    check_name(name, resume=resume, overwrite=overwrite)
    learner_named(request["learner"])
    path = Path(out) / f"{request['target']}+{request['support']}" / (name or _default_name(request))
    datasets = load_pair(request, download=download)
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
    course = _Course(where, plan, datasets, together, display)
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


class _Course:
    """One run under way: its networks at their start, its learner and its tasks. Nothing is written yet.

    Raises:
        MetaSumError: what can be known before the first step.
    """

    def __init__(
        self, where: Where, plan: Plan, datasets: Sides[Dataset], together: Processes, display: Display
    ) -> None:
        self._where, self._plan, self._datasets = where, plan, datasets
        self._together, self._display = together, display
        networks = make_networks(plan)
        self._start = checksum(start_of(networks.target))
        self._parameters = sum(parameter.numel() for parameter in networks.target.parameters())
        self._initial = _state(networks)
        self._networks = networks
        self._learner = make_learner(networks, plan, together.fabric, note=display.note)
        _check_network(self._learner.target_network(), self._initial, plan)
        self._tasks = make_tasks(plan, datasets, together.fabric.device)

    def opened(self) -> contextlib.AbstractContextManager[RunFolder]:
        """The run's folder, made or found, and this process's own while the block runs."""
        plan, where = self._plan, self._where
        description = describe(plan, self._datasets, self._start)
        if pool := getattr(plan.own, "pool", ()):
            description["pool_checksums"] = [checksum(load_weights(Path(file))) for file in pool]
        return opened(
            where.path,
            description,
            lambda: reopen(where.path, description),
            resume=where.resume,
            overwrite=where.overwrite,
            note=self._display.note,
        )

    def go(self, run: RunFolder, troubles: TrackerTroubles | None) -> RunResult:
        """Trains, or takes finished networks, and measures; what is left to do of a run that was stopped."""
        plan, where, together = self._plan, self._where, self._together
        if where.keep_weights and where.endpoints is None and together.first:
            run.save_weights("initial", self._initial, architecture=plan.architecture)
        job_type = "train" if plan.data.evaluate_on == "test" else plan.data.evaluate_on
        tracking = plan.tracking if together.first else dataclasses.replace(plan.tracking, wandb="disabled")
        with tracked(tracking, run, self._display.note, job_type=job_type, troubles=troubles) as tracker:
            result = self._trained_and_measured(run, tracker)
            if together.first:
                tracker.finish(run)
        return together.agreed(lambda: reported(run, result, where.report))

    def _trained_and_measured(self, run: RunFolder, tracker: Tracker) -> RunResult:
        plan, where, together = self._plan, self._where, self._together
        fabric, display = together.fabric, self._display
        harness = make_harness(self._learner, self._tasks, plan, fabric, run, display, tracker.record)
        if where.endpoints is not None:
            trained = _take_endpoints(self._networks, RunFolder.open(where.endpoints))
        else:
            if where.resume is not False:
                harness.resume()
            told = " and ".join(f"{data.name} ({len(data.train):,} images, {data.source})" for data in self._datasets)
            display.note(f"{told}; {self._parameters:,} parameters a network")
            harness.train(title=f"{plan.learner} {plan.data.target}+{plan.data.support}")
            learned = self._networks.coefficients
            trained = Trained(
                steps=harness.steps,
                seconds=round(harness.seconds, 2),
                images_per_second=round(harness.images_per_second, 1),
                coefficients=None if learned is None else tuple(learned.tolist()),
            )
        return together.agreed(
            lambda: finish(harness, plan, trained, keep_weights=where.keep_weights, report=where.report)
        )


def _check_network(network: nn.Module, initial: Parameters, plan: Plan) -> None:
    """Raises ArchitectureError where a learner trains another network than the one that files would be said to hold."""
    try:
        check_same_architecture([initial, dict(network.state_dict())], names=[plan.network.network, "the learner's"])
    except ArchitectureError as error:
        raise ArchitectureError(
            f"learner {plan.learner!r} trains another network than --network {plan.network.network}; register that one "
            f"(metasum.networks.build.register_network) and name it with --network. {error}"
        ) from error


def _state(networks: MetaSum) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in networks.target.state_dict().items()}


def _take_endpoints(networks: MetaSum, run: RunFolder) -> Trained:
    """Gives the pair the networks of a finished run; returns what their training took."""
    for side, network in (("target", networks.target), ("support", networks.support)):
        load_into(network, run.path / f"{side}.safetensors")
    result = run.result(RunResult)
    return Trained(result.steps, result.seconds, result.images_per_second, endpoints=run.path.name)
