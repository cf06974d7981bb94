"""One run's course, from settings to result."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from metasum.assembly.finishing import Trained, finish, reported
from metasum.assembly.initialisation import learnt_initialisation
from metasum.assembly.parts import (
    check_request,
    load_pair,
    make_harness,
    make_networks,
    make_tasks,
    resolve,
    unread_settings,
)
from metasum.assembly.sharding import check_pieces, make_learner
from metasum.baselines.registry import learner_named, pool_files
from metasum.config import TrackingConfig, TrainConfig
from metasum.errors import UsageError
from metasum.learners.networks import MetaSum
from metasum.networks.build import architecture, start_of
from metasum.plugins import load_entry_points
from metasum.results.run import RunResult
from metasum.training.description import describe, reopen
from metasum.training.opening import opened
from metasum.training.optimisation import make_fabric
from metasum.training.processes import Processes
from metasum.training.progress import Display, SilentDisplay
from metasum.training.run_folder import RunFolder
from metasum.training.tracking import check_tracking, tracked
from metasum.training.wandb_runs import Troubles
from metasum.types import Dataset, Sides
from metasum.weights.parameters import checksum
from metasum.weights.storage import load_into, load_weights


def train(
    config: TrainConfig | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    download: bool = False,
    report: bool = True,
    display: Display | None = None,
) -> RunResult:
    """One run, from settings to result.

    Args:
        config: the settings [default: the embedded pair]; what is None in them is taken from the pair's recipe.
        out: folder under which `<target>+<support>/<name>` is made.
        name: of the run's folder [default: `<learner>-seed<seed>`, with W&B's id behind it under a sweep's agent].
        resume: continue an unfinished run with the same settings; a finished one is returned as it is.
        overwrite: replace a run that is there.
        download: let torchvision fetch a dataset that is not there.
        report: draw report.html at the end.
        display: what is told about progress [default: nothing].

    Returns:
        What result.json holds; for instance `accuracy.target.after`, or `run`, the folder.

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; nothing is left half-written.
    """
    config = config or TrainConfig()
    check_request(name, resume=resume, overwrite=overwrite)
    load_entry_points()
    learner_named(config.learner)
    path = Path(out) / f"{config.data.target}+{config.data.support}" / (name or _default_name(config))
    datasets = load_pair(config, download=download)
    return run_in(
        path,
        config,
        datasets,
        out=Path(out),
        resume=resume,
        overwrite=overwrite,
        download=download,
        report=report,
        display=display,
    )


def _default_name(config: TrainConfig) -> str:
    """`<learner>-seed<seed>`; under a sweep's agent, whose runs differ in anything, W&B's id is added."""
    trial = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    return f"{config.learner}-seed{config.seed}" + (f"-{trial}" if trial else "")


def run_in(
    path: Path,
    config: TrainConfig,
    datasets: Sides[Dataset],
    *,
    out: Path,
    resume: bool | None = False,
    overwrite: bool = False,
    download: bool = False,
    report: bool = False,
    endpoints: Path | None = None,
    keep_weights: bool = True,
    display: Display | None = None,
    troubles: Troubles | None = None,
) -> RunResult:
    """One run in the folder `path`; see `train`.

    Args:
        out: folder of runs, where a meta-learnt initialisation is looked for, or made.
        resume: None continues a run that is there.
        endpoints: a finished run beside `path`, of the same settings, whose networks are taken as trained, for a
            learner that only merges them; its own folder then holds the merged network only.
        keep_weights: whether networks are saved.
        troubles: with trackers, of the study that the run belongs to.
    """
    display = display or SilentDisplay()
    check_tracking(config.tracking)
    fabric = make_fabric(config.optimisation, config.processes)
    together = Processes(fabric)
    config = resolve(config, datasets)
    if together.several:
        display = display if together.first else SilentDisplay()
        _check_shared(config, together)
    if config.processes.fsdp:
        check_pieces(config, together)
    if learner_named(config.learner).meta_learnt:
        resume = None if resume else resume  # what was stopped may have been the learning of its initialisation
        config = learnt_initialisation(config, out=out, download=download, display=display, troubles=troubles)
    networks = make_networks(config)
    initial = {n: tensor.detach().clone() for n, tensor in networks.target.state_dict().items()}
    start, size = checksum(start_of(networks.target)), sum(p.numel() for p in networks.target.parameters())
    learner = make_learner(networks, config, fabric)
    if config.sum.statistics == "learned" and not learner.trains_sum:
        raise UsageError(f"--statistics learned: learner {config.learner!r} does not run the sum in training.")
    if config.sum.operator == "learned" and not learner.trains_sum:
        raise UsageError(f"--operator learned: learner {config.learner!r} does not run the sum in training.")
    tasks = make_tasks(config, datasets, fabric.device)
    description = describe(config, datasets, start)
    if config.objective.pool is not None:
        description["pool_checksums"] = [checksum(load_weights(path)) for path in pool_files(config.objective.pool)]
    with contextlib.ExitStack() as own:
        run = together.agreed(
            lambda: own.enter_context(
                opened(
                    path,
                    description,
                    lambda: reopen(path, description, unread=unread_settings(config.learner)),
                    resume=resume,
                    overwrite=overwrite,
                    note=display.note,
                )
            )
        )
        if run.finished:
            display.note(f"{path} is finished already.")
            return together.agreed(lambda: reported(run, run.result(RunResult), report))
        if keep_weights and endpoints is None and together.first:
            run.save_weights("initial", initial, architecture=architecture(config))
        tracking = config.tracking if together.first else TrackingConfig(wandb="disabled")
        job_type = "train" if config.data.evaluate_on == "test" else config.data.evaluate_on
        with tracked(tracking, run, display.note, job_type=job_type, troubles=troubles) as tracker:
            harness = make_harness(learner, tasks, config, fabric, run, display, tracker.record)
            if endpoints is not None:
                trained = _take_endpoints(networks, RunFolder.open(endpoints))
            else:
                if resume is not False:
                    harness.resume()
                sizes = " and ".join(f"{data.name} ({len(data.train):,} images, {data.source})" for data in datasets)
                display.note(f"{sizes}; {size:,} parameters a network")
                harness.train(title=f"{config.learner} {config.data.target}+{config.data.support}")
                learned = networks.coefficients
                trained = Trained(
                    steps=harness.steps,
                    seconds=round(harness.seconds, 2),
                    images_per_second=round(harness.images_per_second, 1),
                    coefficients=None if learned is None else tuple(learned.tolist()),
                )
            result = together.agreed(lambda: finish(harness, config, trained, display, keep_weights, report))
            if together.first:
                tracker.finish(run)
        return together.agreed(lambda: reported(run, result, report))


def _check_shared(config: TrainConfig, together: Processes) -> None:
    """Raises UsageError for a run that several processes cannot share."""
    assert config.data.batch_size is not None  # resolved
    together.check_batch(config.data.batch_size)
    if learner_named(config.learner).meta_learnt and config.network.init is None:
        raise UsageError("--devices: meta-train the initialisation by itself first, and give it with --init.")


def _take_endpoints(networks: MetaSum, run: RunFolder) -> Trained:
    """Gives the pair the networks of a finished run; returns what their training took."""
    for side, network in (("target", networks.target), ("support", networks.support)):
        load_into(network, run.path / f"{side}.safetensors")
    result = run.result(RunResult)
    return Trained(result.steps, result.seconds, result.images_per_second, endpoints=run.path.name)
