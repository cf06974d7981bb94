"""From a plan to networks and to a learner on its device: whole, or in pieces over the processes (`--fsdp`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from metasum.config.sections import NetworkConfig
from metasum.errors import UsageError
from metasum.learners.learner import Learner
from metasum.learners.networks import MetaSum
from metasum.learners.sharded import ShardedLearner, ShardedMetaSum
from metasum.learners.trainable import TrainedLearner
from metasum.networks.build import build_network, wrapped
from metasum.networks.fitting import check_fits
from metasum.networks.heads import head_of
from metasum.networks.synchronised import synchronise
from metasum.run.plan import Plan
from metasum.tasks.loading import load_dataset
from metasum.tasks.task import ImageTask
from metasum.training.layout import CONTIGUOUS
from metasum.training.layout_trial import Surroundings, chosen_layout
from metasum.training.optimisation import place
from metasum.training.processes import Processes
from metasum.training.settling import statistics_of
from metasum.types import Dataset, Sides
from metasum.weights.composition import OPERATORS
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
    """Both networks at their start, and the module that adds them.

    Raises:
        UsageError: a backend cannot run the network, or it does not take the images, see `check_fits`.
    """
    own = {name: getattr(plan.own, name) for name in OF_THE_SUM if hasattr(plan.own, name)}
    if plan.network.tangent and own.get("backend") == "higher":
        raise UsageError("--backend higher cannot run a --tangent; take torch or learn2learn.")
    channels, own_seed = plan.data.in_channels, plan.network.support_init_seed
    model = initial_network(plan.network, in_channels=channels)
    check_fits(model, plan.network, channels)
    support = None if own_seed is None else build_network(plan.network, in_channels=channels, seed=own_seed)
    if plan.processes.sync_batch_norm:
        model, support = synchronise(model), support and synchronise(support)
    return MetaSum(model, support=support, **own)


def new_learner(plan: Plan, networks: MetaSum | None = None, further: Mapping[str, Dataset] | None = None) -> Learner:
    """The plan's learner at its start, on the CPU.

    Args:
        plan: whose learner it is.
        networks: the pair [default: made from the plan].
        further: what `further_data` returns for the plan [default: loaded].

    Raises:
        UsageError: a setting asks for a sum that its training does not run, or for statistics that it cannot have.
        ArchitectureError: the learner cannot take this network.
    """
    learner = plan.learner_class(networks or make_networks(plan), plan.own, seed=plan.seed)
    data = further_data(plan) if further is None else further
    channels, size = plan.data.in_channels, plan.network.image_size
    tasks = {name: ImageTask(each, in_channels=channels, image_size=size) for name, each in data.items()}
    learner.read_further(tasks)
    asked = {"--statistics": plan.evaluation.statistics, "--operator": getattr(plan.own, "operator", "")}
    for flag, value in asked.items():
        if value == "learned" and not learner.trains_sum:
            raise UsageError(f"{flag} learned: learner {plan.learner!r} does not run the sum in training.")
    if plan.evaluation.statistics == "own":
        statistics_of(learner, Sides(learner.target_network(), learner.support_network()), "own")  # or it is refused
    if plan.evaluation.heads == "own":
        network = learner.target_network()
        head_of(network, torch.zeros(2, channels, size, size, dtype=next(network.parameters()).dtype))  # the same
    return learner


def further_data(plan: Plan) -> dict[str, Dataset]:
    """The datasets that the learner reads beside the pair's, by name; raises as `load_dataset` does."""
    root = Path(plan.data.data_root)
    return {name: load_dataset(name, root=root) for name in plan.learner_class.further_data(plan.own)}


def make_learner(
    networks: MetaSum,
    plan: Plan,
    fabric: Fabric,
    *,
    further: Mapping[str, Dataset] | None = None,
    before: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[TrainedLearner, str]:
    """The plan's learner, on the device or, with `--fsdp`, this process's piece of it; and its kernels' layout.

    Args:
        networks: the pair at its start, on the CPU. With `--fsdp` it stays there, for the first process to measure.
        plan: whose learner it is.
        fabric: the device, and the processes.
        further: what `further_data` returns for the plan [default: loaded].
        before: the layout that the run began with, where it goes on.
        note: hears what is wrong with channels last, where something is.

    Raises:
        UsageError: `--memory-format channels-last` is not safe here; see `chosen_layout`.
    """
    learner = new_learner(plan, networks, further)
    if not plan.processes.fsdp:
        together = Processes(fabric)
        images = max(1, plan.data.batch_size // together.count), plan.data.in_channels, *[plan.network.image_size] * 2
        trained = Surroundings(images, fabric.device, plan.optimisation.precision)
        own = networks.target, networks.support  # as the learner has made them
        layout, why = together.agreed(
            lambda: chosen_layout(plan.optimisation.memory_format, own, trained, before=before)
        )
        if why is not None:
            note(why)
        place(learner, fabric.device, layout)
        return learner, layout
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(fabric.device.type, (fabric.world_size,))
    narrow = torch.bfloat16 if plan.optimisation.precision == "bf16-mixed" else None
    pieces = new_learner(plan, ShardedMetaSum(networks, mesh, precision=narrow))
    return ShardedLearner(pieces, learner, device=fabric.device, first=fabric.global_rank == 0), CONTIGUOUS


def check_pieces(plan: Plan, together: Processes) -> None:
    """Raises UsageError for a run whose networks cannot be cut into pieces."""
    import torch.distributed.fsdp

    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        raise UsageError(f"--fsdp needs PyTorch 2.6 or later; this is {torch.__version__}.")
    for name in ("tangent", "augmented"):
        if getattr(plan.network, name):
            raise UsageError(f"--fsdp: --{name} needs whole networks in training.")
    if reason := plan.learner_class.needs_whole(plan.own):
        raise UsageError(f"--fsdp: learner {plan.learner!r} needs whole networks in training, for {reason}.")
    operator = getattr(plan.own, "operator", "sum")
    if operator not in OPERATORS:
        raise UsageError(f"--fsdp: --operator {operator} needs whole networks; take {' or '.join(OPERATORS)}.")
    if plan.optimisation.memory_format == "channels-last":
        raise UsageError("--fsdp: pieces are cut from contiguous kernels; leave --memory-format out.")
    if plan.optimisation.precision == "16-mixed":
        raise UsageError("--fsdp: --precision 16-mixed scales gradients that are whole; take bf16-mixed.")
    if not together.several:
        raise UsageError("--fsdp cuts networks into a piece for each process, and there is one: add --devices 2.")
