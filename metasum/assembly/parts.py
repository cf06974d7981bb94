"""From settings to datasets, networks, tasks and harness."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metasum.baselines.registry import LEARNERS, learner_named
from metasum.config import NetworkConfig, TrainConfig, changed, flat
from metasum.errors import UsageError
from metasum.files import check_folder_name
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Learner
from metasum.networks.build import build_network, wrapped
from metasum.networks.synchronised import synchronise
from metasum.tasks.registry import load_dataset, pair_of
from metasum.tasks.sampler import PairSampler
from metasum.tasks.task import ImageTask
from metasum.training.evaluation import Evaluator
from metasum.training.harness import Harness
from metasum.training.progress import Display
from metasum.training.run_folder import RunFolder
from metasum.types import Dataset, Sides
from metasum.weights.storage import load_into

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_request(name: str | None, *, resume: bool | None, overwrite: bool) -> None:
    """Raises UsageError where a run cannot be called so, or is to be continued and replaced at once."""
    if name is not None:
        check_folder_name("--name", name)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite ask for opposite things.")


def load_pair(config: TrainConfig, *, download: bool = False) -> Sides[Dataset]:
    """The target's and the support's dataset."""
    root = Path(config.data.data_root)
    target, support = (
        load_dataset(name, root=root, download=download) for name in (config.data.target, config.data.support)
    )
    return Sides(target, support)


def resolve(config: TrainConfig, datasets: Sides[Dataset]) -> TrainConfig:
    """The settings with the learner's presets, and every None that stands for a default filled in.

    Raises:
        UsageError: settings that the learner does not read, or that do not go together.
    """
    entry = learner_named(config.learner)
    _refuse_settings_of_other_learners(config)
    given, default = flat(config), flat(TrainConfig())
    for name, value in entry.preset.items():
        if given[name] not in (default[name], value):
            raise UsageError(f"--{name.replace('_', '-')} is {value} for learner {config.learner!r}.")
    own = {name: value for name, value in entry.defaults.items() if given[name] == default[name]}
    config = changed(config, **entry.preset, **own)
    if entry.two_initialisations and config.network.support_init_seed is None:
        config = changed(config, support_init_seed=config.network.init_seed + 1)
    if entry.endpoints is not None and config.sum.statistics != "recalibrate":
        raise UsageError(f"--statistics {config.sum.statistics}: merged networks are measured with recalibrated ones.")
    seeds = config.network.init_seed, config.network.support_init_seed
    if seeds[0] == seeds[1] and config.network.init is None:
        raise UsageError(f"--support-init-seed {seeds[1]} is the target's own; another one makes another start.")
    if entry.one_initialisation and seeds[1] is not None:
        raise UsageError(f"--support-init-seed: learner {config.learner!r} needs one initialisation for both networks.")
    recipe = pair_of(config.data.target, config.data.support).recipe
    classes = max(data.num_classes for data in datasets)
    asked = config.network.num_classes
    if asked is not None and asked < classes:
        raise UsageError(f"--num-classes {asked} is too few: the datasets have {classes} classes.")
    defaults = {**dataclasses.asdict(recipe), "num_classes": classes}
    given = flat(config)
    return changed(config, **{name: value for name, value in defaults.items() if given[name] is None})


def _refuse_settings_of_other_learners(config: TrainConfig) -> None:
    """A setting that the chosen learner does not read is an error, not a silence."""
    now, default = flat(config), flat(TrainConfig())
    for name in sorted(unread_settings(config.learner)):
        if now[name] != default[name]:
            raise UsageError(f"--{name.replace('_', '-')} says nothing to learner {config.learner!r}.")


def private_settings() -> set[str]:
    """Names of the settings that only some learners read."""
    return {name for entry in LEARNERS.values() for name in entry.settings}


def unread_settings(learner: str) -> set[str]:
    """Of those, the ones that `learner` does not read."""
    return private_settings() - set(learner_named(learner).settings)


def settings_for(learner: str, config: TrainConfig, **values: Any) -> TrainConfig:
    """`config` for `learner`: what only others read, or what it sets itself, is at its default; `values` on top."""
    default = flat(TrainConfig())
    names = unread_settings(learner) | set(learner_named(learner).preset)
    return changed(config, learner=learner, **{**{name: default[name] for name in names}, **values})


def open_grid(learner: str, config: TrainConfig, by_hand: Collection[str] = ()) -> list[dict[str, Any]]:
    """Every combination of the learner's candidates for settings that nobody chose by hand; [] where there are none.

    Args:
        learner: its name.
        config: a setting that differs from its default here was chosen by hand;
        by_hand: and so were these.
    """
    default, given = flat(TrainConfig()), flat(config)
    grid = {
        name: values
        for name, values in learner_named(learner).grid.items()
        if given[name] == default[name] and name not in by_hand
    }
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


def initial_network(config: NetworkConfig, *, in_channels: int) -> nn.Module:
    """The shared initialisation: from `config.init` where given, else drawn from `config.init_seed`."""
    plain = dataclasses.replace(config, tangent=False, augmented=False)
    network = build_network(plain, in_channels=in_channels, seed=config.init_seed)
    if config.init is not None:
        load_into(network, Path(config.init))
    return wrapped(network, config)


def make_networks(config: TrainConfig) -> MetaSum:
    """Both networks at their start, and the module that adds them; raises UsageError where a backend cannot run it."""
    if config.network.tangent and config.sum.backend == "higher":
        raise UsageError("--backend higher cannot run a --tangent; take torch or learn2learn.")
    channels, own_seed = config.data.in_channels, config.network.support_init_seed
    model = initial_network(config.network, in_channels=channels)
    support = None if own_seed is None else build_network(config.network, in_channels=channels, seed=own_seed)
    if config.processes.sync_batch_norm:
        model, support = synchronise(model), support and synchronise(support)
    return MetaSum(
        model,
        support=support,
        operator=config.sum.operator,
        backend=config.sum.backend,
        scaling=config.merging.scaling,
    )


def make_tasks(config: TrainConfig, datasets: Sides[Dataset], device: torch.device) -> Sides[ImageTask]:
    """Both datasets, on the device, with their augmentation."""
    target, support = (
        ImageTask(
            dataset,
            in_channels=config.data.in_channels,
            device=device,
            augmentation=augmentation,
            evaluate_on=config.data.evaluate_on,
        )
        for dataset, augmentation in zip(
            datasets, (config.data.augment_target, config.data.augment_support), strict=True
        )
    )
    return Sides(target, support)


def make_harness(
    learner: Learner,
    tasks: Sides[ImageTask],
    config: TrainConfig,
    fabric: Fabric,
    run: RunFolder,
    display: Display,
    record: Callable[[dict[str, Any]], None],
) -> Harness[Learner, Evaluator]:
    """The training loop of one run; all its randomness comes from the run's seed."""
    generator = torch.Generator().manual_seed(config.seed)
    assert config.data.batch_size is not None  # resolved
    return Harness(
        learner,
        PairSampler([tasks], batch_size=config.data.batch_size, generator=generator),
        evaluator=Evaluator(*tasks, settings=config.sum, autocast=fabric.autocast),
        config=config,
        fabric=fabric,
        run=run,
        display=display,
        record=record,
    )
