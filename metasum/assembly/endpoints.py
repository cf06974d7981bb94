"""Finished runs as networks to be added: opening them, and telling apart what does not belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metasum.baselines.registry import LEARNERS
from metasum.config import TrainConfig, flat, from_dict
from metasum.errors import ArchitectureError, CheckpointError, UsageError
from metasum.merging.endpoints import Endpoint
from metasum.networks.build import load_network
from metasum.results.run import RunResult
from metasum.results.strangers import SummedRun
from metasum.tasks.registry import load_dataset
from metasum.tasks.task import ImageTask
from metasum.training.run_folder import RunFolder
from metasum.types import Task
from metasum.weights.parameters import check_same_architecture, parameters_of
from metasum.weights.storage import load_weights


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """One run's target network, and what is known about it."""

    folder: Path
    config: TrainConfig
    network: nn.Module
    initial: dict[str, torch.Tensor]
    initial_checksum: str
    data_checksum: str
    """Of the target's dataset."""

    @property
    def target(self) -> str:
        return self.config.data.target


def open_run(folder: Path) -> FinishedRun:
    """The target network of a finished run, on the CPU, in eval mode.

    Raises:
        CheckpointError: it is not a run folder, the run is not finished, or a file of it is missing or damaged.
    """
    run = RunFolder.open(folder)
    result, description = run.result(RunResult), run.read_json("config.json")
    config = from_dict(description.get("settings", {}))
    weights = run.networks_folder(result)
    network = load_network(weights / "target.safetensors")
    own = parameters_of(network)
    initial = {name: t for name, t in load_weights(weights / "initial.safetensors").items() if name in own}
    try:
        checksums = description["initial_checksum"], description["data"]["target"]["checksum"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: it lacks {error}.") from error
    return FinishedRun(folder, config, network, initial, *checksums)


def check_addable(runs: Sequence[FinishedRun], *, any_init: bool = False) -> None:
    """Raises where the runs' target networks cannot, or should not, be added.

    Raises:
        UsageError: fewer than two; other channels, held-out images or class counts; or, unless `any_init`, other
            initialisations.
        ArchitectureError: another architecture; the first difference is named.
    """
    if len(runs) < 2:
        raise UsageError(f"a sum takes at least two runs, not {len(runs)}.")
    _check_numbers(runs)
    first, *others = runs
    for other in others:
        _check_settings(first, other)
        check_same_architecture(
            [parameters_of(run.network) for run in (first, other)], names=[str(run.folder) for run in (first, other)]
        )
        if first.initial_checksum != other.initial_checksum and not any_init:
            raise UsageError(
                f"{first.folder} and {other.folder} start from different initialisations (checksums "
                f"{first.initial_checksum} and {other.initial_checksum}): their weights have nothing in common. Train "
                "both with the same --init-seed, or add them all the same with --any-init."
            )


def _check_numbers(runs: Sequence[FinishedRun]) -> None:
    """Raises UsageError where two networks stand in one place that only one of them can have."""
    seen: dict[tuple[str, Any], FinishedRun] = {}
    divided = [run for run in runs if run.config.learner in LEARNERS and LEARNERS[run.config.learner].numbered]
    if len({run.config.slots.slots for run in divided}) > 1:
        told = ", ".join(f"{run.folder} has --slots {run.config.slots.slots}" for run in divided)
        raise UsageError(f"{told}: their parts overlap; train all with the same number.")
    for run in runs:
        setting = LEARNERS[run.config.learner].numbered if run.config.learner in LEARNERS else None
        if setting is not None:
            number = flat(run.config)[setting]
            if (setting, number) in seen:
                raise UsageError(
                    f"{seen[setting, number].folder} and {run.folder} both have --{setting} {number}; train "
                    "one of them with another."
                )
            seen[setting, number] = run


def _check_settings(first: FinishedRun, other: FinishedRun) -> None:
    ours, theirs = first.config.network, other.config.network
    if ours.num_classes != theirs.num_classes:
        most = max(ours.num_classes or 0, theirs.num_classes or 0)
        raise UsageError(
            f"{first.folder} has {ours.num_classes} classes and {other.folder} has {theirs.num_classes}; "
            f"train both with --num-classes {most}."
        )
    for name in ("network", "width", "norm", "tangent", "augmented"):
        mine, yours = getattr(ours, name), getattr(theirs, name)
        if mine != yours:
            raise ArchitectureError(
                f"the networks differ in architecture: --{name} is {mine} in {first.folder} and {yours} in "
                f"{other.folder}."
            )
    for name in ("in_channels", "evaluate_on"):
        mine, yours = getattr(first.config.data, name), getattr(other.config.data, name)
        if mine != yours:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {mine} in {first.folder} and {yours} in {other.folder}: train both alike.")


def tasks_of(
    runs: Sequence[FinishedRun], names: Sequence[str], *, data_root: Path | None, device: torch.device, download: bool
) -> dict[str, ImageTask]:
    """The datasets called `names`, prepared as the runs saw theirs.

    Args:
        runs: finished runs that can be added.
        names: of datasets.
        data_root: where they lie [default: where each run found its own, or the first run's for others].
        device: where batches are made.
        download: let torchvision fetch what is not there.

    Raises:
        UsageError: a dataset is not the one that a run was trained on, though it has its name; or it has more
            classes than the networks.
    """
    tasks = {}
    first = runs[0].config
    for name in dict.fromkeys(names):
        owners = [run for run in runs if run.target == name]
        root = data_root or Path((owners[0].config if owners else first).data.data_root)
        dataset = load_dataset(name, root=root, download=download)
        other = next((run for run in owners if run.data_checksum != dataset.checksum), None)
        if other is not None:
            raise UsageError(
                f"dataset {name!r} in {root} is not the one that {other.folder} was trained on (other checksum)."
            )
        if dataset.num_classes > (first.network.num_classes or 0):
            raise UsageError(
                f"dataset {name!r} has {dataset.num_classes} classes, more than the networks' "
                f"{first.network.num_classes}."
            )
        tasks[name] = ImageTask(
            dataset, in_channels=first.data.in_channels, device=device, evaluate_on=first.data.evaluate_on
        )
    return tasks


def endpoints_of(runs: Sequence[FinishedRun], tasks: Mapping[str, Task], *, batches: int) -> list[Endpoint]:
    """The runs' target networks with unlabelled training images of their own datasets, where `tasks` has them."""
    return [
        Endpoint(run.network, list(tasks[run.target].calibration(batches)) if run.target in tasks else [])
        for run in runs
    ]


def describe_run(run: FinishedRun) -> SummedRun:
    """What a report says of a run."""
    data = run.config.data
    return SummedRun(
        run=str(run.folder),
        target=data.target,
        support=data.support,
        learner=run.config.learner,
        seed=run.config.seed,
        initial_checksum=run.initial_checksum,
        data_checksum=run.data_checksum,
    )
