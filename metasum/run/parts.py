"""From a plan to networks, learner, tasks and harness."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metasum.config.sections import NetworkConfig
from metasum.errors import UsageError
from metasum.learners.learner import Learner, TrainedLearner
from metasum.learners.networks import MetaSum
from metasum.networks.build import build_network, wrapped
from metasum.networks.synchronised import synchronise
from metasum.run.plan import Plan
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

OF_THE_SUM = ("operator", "scaling", "backend")  # settings of some learners that their pair of networks is made with


def initial_network(config: NetworkConfig, *, in_channels: int) -> nn.Module:
    """The shared initialisation: from `config.init` where given, else drawn from `config.init_seed`."""
    plain = dataclasses.replace(config, tangent=False, augmented=False)
    network = build_network(plain, in_channels=in_channels, seed=config.init_seed)
    if config.init is not None:
        load_into(network, Path(config.init))
    return wrapped(network, config)


def make_networks(plan: Plan) -> MetaSum:
    """Both networks at their start, and the module that adds them; raises UsageError where a backend cannot run it."""
    own = {name: getattr(plan.own, name) for name in OF_THE_SUM if hasattr(plan.own, name)}
    if plan.network.tangent and own.get("backend") == "higher":
        raise UsageError("--backend higher cannot run a --tangent; take torch or learn2learn.")
    channels, own_seed = plan.data.in_channels, plan.network.support_init_seed
    model = initial_network(plan.network, in_channels=channels)
    support = None if own_seed is None else build_network(plan.network, in_channels=channels, seed=own_seed)
    if plan.processes.sync_batch_norm:
        model, support = synchronise(model), support and synchronise(support)
    return MetaSum(model, support=support, **own)


def new_learner(plan: Plan, networks: MetaSum | None = None) -> Learner:
    """The plan's learner at its start, on the CPU.

    Args:
        plan: of the run.
        networks: its pair [default: made from the plan].

    Raises:
        UsageError: a setting asks for a sum that its training does not run.
        ArchitectureError: the learner cannot take this network.
    """
    learner = plan.learner_class(networks or make_networks(plan), plan.own, seed=plan.seed)
    asked = {"--statistics": plan.evaluation.statistics, "--operator": getattr(plan.own, "operator", "")}
    for flag, value in asked.items():
        if value == "learned" and not learner.trains_sum:
            raise UsageError(f"{flag} learned: learner {plan.learner!r} does not run the sum in training.")
    return learner


def make_tasks(plan: Plan, datasets: Sides[Dataset], device: torch.device) -> Sides[ImageTask]:
    """Both datasets, on the device, with their augmentation."""
    data = plan.data
    return Sides(
        *(
            ImageTask(
                dataset,
                in_channels=data.in_channels,
                device=device,
                augmentation=augmentation,
                evaluate_on=data.evaluate_on,
            )
            for dataset, augmentation in zip(datasets, (data.augment_target, data.augment_support), strict=True)
        )
    )


def make_harness(
    learner: TrainedLearner,
    tasks: Sides[ImageTask],
    plan: Plan,
    fabric: Fabric,
    run: RunFolder,
    display: Display,
    record: Callable[[dict[str, Any]], None],
) -> Harness[TrainedLearner, Evaluator]:
    """The training loop of one run; all its randomness comes from the run's seed."""
    generator = torch.Generator().manual_seed(plan.seed)
    return Harness(
        learner,
        PairSampler([tasks], batch_size=plan.data.batch_size, generator=generator),
        evaluator=Evaluator(*tasks, settings=plan.evaluation, autocast=fabric.autocast),
        config=plan,
        fabric=fabric,
        run=run,
        display=display,
        record=record,
    )
