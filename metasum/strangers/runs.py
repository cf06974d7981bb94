"""Finished runs as networks to be added: opening them, which may be added, and merging them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from metasum.baselines.registry import LEARNERS
from metasum.config import flag_of
from metasum.config.words import Heads
from metasum.errors import ArchitectureError, CheckpointError, UsageError
from metasum.files import reading
from metasum.merging import memory
from metasum.merging.endpoints import Endpoint
from metasum.merging.method import Method
from metasum.networks.build import load_network, start_of
from metasum.results.run import RunResult
from metasum.run.description import plan_of
from metasum.run.plan import Plan
from metasum.strangers.heads import kept_head, owners
from metasum.training.run_folder import RunFolder
from metasum.types import Task
from metasum.weights.parameters import check_same_architecture, checksum, parameters_of
from metasum.weights.storage import load_weights


@dataclass(frozen=True)
class FinishedRun:
    """One run's target network, and what is known about it."""

    folder: Path
    plan: Plan
    """Its learner need not be registered in this process: `plan.own` then has the attributes that config.json has."""
    network: nn.Module
    """The target network, in eval mode."""
    initial: dict[str, torch.Tensor]
    """θ_0: the parameters that it started from, on the CPU."""
    initial_checksum: str
    data_checksum: str
    """Of the target's dataset."""
    further_data: tuple[str, ...]
    """Names of the datasets that its training read beside the pair's."""
    kept: frozenset[str] = frozenset()
    """Names of the network's parameters and buffers that are not summed: its head, where it keeps that for itself."""

    @property
    def summed(self) -> dict[str, torch.Tensor]:
        """The network's parameters without what it keeps."""
        return {name: own for name, own in parameters_of(self.network).items() if name not in self.kept}

    @property
    def target(self) -> str:
        """The name of its own dataset."""
        return self.plan.data.target


def open_run(folder: Path, *, heads: Heads = "summed") -> FinishedRun:
    """The target network of a finished run, on the CPU, in eval mode.

    Args:
        folder: of the run.
        heads: "own": it keeps its head for itself.

    Raises:
        CheckpointError: it is not a run folder, the run is not finished, or a file of it is missing or damaged.
        MetaSumError: it has no head that it could keep, see `kept_head`.
    """
    with reading(folder):
        return _opened(RunFolder.open(folder), heads)


def _opened(run: RunFolder, heads: Heads) -> FinishedRun:
    folder = run.path
    result, description = run.result(RunResult), run.read_json("config.json")
    plan = plan_of(description, any_learner=True)
    weights = run.networks_folder(result)
    network = load_network(weights / "target.safetensors")
    own = parameters_of(network)
    start = load_weights(weights / "initial.safetensors")
    try:
        checksums = description["initial_checksum"], description["data"]["target"]["checksum"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: it lacks {error}.") from error
    if checksum({name: start[name] for name in start_of(network) if name in start}) != checksums[0]:
        raise CheckpointError(
            f"{weights / 'initial.safetensors'} is not what {folder / 'config.json'} says that training started from "
            "(another checksum): one of the two is damaged, or of another run."
        )
    initial = {name: tensor for name, tensor in start.items() if name in own}
    kept = kept_head(network, plan, folder) if heads == "own" else frozenset[str]()
    return FinishedRun(folder, plan, network, initial, *checksums, tuple(description.get("further_data", ())), kept)


def same_start(runs: Sequence[FinishedRun]) -> bool:
    """Whether all were trained from one initialisation."""
    return len({run.initial_checksum for run in runs}) == 1


def check_addable(runs: Sequence[FinishedRun], *, any_init: bool = False) -> None:
    """Raises where the runs' target networks cannot, or should not, be added.

    Raises:
        UsageError: fewer than two; other channels, held-out images or class counts; two in one place that only one
            can have; or, unless `any_init`, other initialisations.
        ArchitectureError: another architecture; the first difference is named.
    """
    if len(runs) < 2:
        raise UsageError(f"a sum takes at least two runs, not {len(runs)}.")
    _check_places(runs)
    first, *others = runs
    for other in others:
        _check_settings(first, other)
        check_same_architecture(
            [run.summed for run in (first, other)], names=[str(run.folder) for run in (first, other)]
        )
        if first.initial_checksum != other.initial_checksum and not any_init:
            raise UsageError(
                f"{first.folder} and {other.folder} start from different initialisations (checksums "
                f"{first.initial_checksum} and {other.initial_checksum}): their weights have nothing in common. Train "
                "both with the same --init-seed, or add them all the same with --any-init."
            )


def _check_places(runs: Sequence[FinishedRun]) -> None:
    """Raises UsageError where learners give each network a place, and two runs do not fit side by side.

    The learners say so by their facts `places`, a setting that all must agree on, and `numbered`, one that must differ.
    """
    agreed: dict[str, FinishedRun] = {}
    taken: dict[tuple[str, object], FinishedRun] = {}
    for run in runs:
        learner, settings = LEARNERS.get(run.plan.learner), run.plan.flat()
        if learner is None:
            continue  # of a plug-in that is not loaded here: nobody knows its facts
        if learner.places is not None:
            first, flag = agreed.setdefault(learner.places, run), flag_of(learner.places)
            ours, theirs = first.plan.flat()[learner.places], settings[learner.places]
            if ours != theirs:
                raise UsageError(
                    f"{first.folder} has {flag} {ours} and {run.folder} has {flag} {theirs}: their parts overlap; "
                    "train all with the same number."
                )
        if learner.numbered is not None:
            number = settings[learner.numbered]
            first = taken.setdefault((learner.numbered, number), run)
            if first is not run:
                raise UsageError(
                    f"{first.folder} and {run.folder} both have {flag_of(learner.numbered)} {number}; train one of "
                    "them with another."
                )


def _check_settings(first: FinishedRun, other: FinishedRun) -> None:
    ours, theirs = first.plan.network, other.plan.network
    if ours.num_classes != theirs.num_classes and not first.kept:
        raise UsageError(
            f"{first.folder} has {ours.num_classes} classes and {other.folder} has {theirs.num_classes}; "
            f"train both with --num-classes {max(ours.num_classes, theirs.num_classes)}."
        )
    for name in ("network", "image_size", "width", "norm", "tangent", "augmented"):
        mine, yours = getattr(ours, name), getattr(theirs, name)
        if mine != yours:
            raise ArchitectureError(
                f"the networks differ in architecture: {flag_of(name)} is {mine} in {first.folder} and {yours} in "
                f"{other.folder}."
            )
    for name in ("in_channels", "evaluate_on"):
        mine, yours = getattr(first.plan.data, name), getattr(other.plan.data, name)
        if mine != yours:
            raise UsageError(
                f"{flag_of(name)} is {mine} in {first.folder} and {yours} in {other.folder}: train both alike."
            )


def endpoints_of(runs: Sequence[FinishedRun], tasks: Mapping[str, Task], *, batches: int) -> list[Endpoint]:
    """The runs' target networks with batches of unlabelled images of their own datasets, where `tasks` has them."""
    return [
        Endpoint(
            run.network, list(tasks[run.target].calibration(batches)) if run.target in tasks else [], kept=run.kept
        )
        for run in runs
    ]


def merge_runs(
    runs: Sequence[FinishedRun], endpoints: Sequence[Endpoint], method: Method, datasets: Iterable[str]
) -> dict[str, nn.Module]:
    """A new network, what `method` makes of the runs' target networks; see `memory.merged_network` for its statistics.

    The endpoints are what `endpoints_of` made of the runs, all on one device; θ_0 is the first run's start.

    Returns:
        By dataset: one and the same; or where the runs keep their heads, or the method knows the task, that of the
        dataset's own run.

    Raises:
        UsageError: the method does not merge so many, or needs images that are not there.
        ArchitectureError: the method cannot merge such networks.
    """
    device = next(endpoints[0].network.parameters()).device
    initial = {name: tensor.to(device) for name, tensor in runs[0].initial.items()}
    if not (runs[0].kept or method.knows_task):
        return dict.fromkeys(datasets, memory.merged_network(method, endpoints, initial))
    tasks = memory.merged_tasks(method, endpoints, initial)
    return {name: tasks[index] for name, index in owners(runs, datasets).items()}
