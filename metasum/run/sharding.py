"""A learner on its device: whole, or in pieces over the processes (`--fsdp`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from metasum.errors import UsageError
from metasum.learners.learner import TrainedLearner
from metasum.learners.networks import MetaSum
from metasum.learners.sharded import ShardedLearner, ShardedMetaSum
from metasum.run.parts import new_learner
from metasum.run.plan import Plan
from metasum.training.layout import checked_layout
from metasum.training.optimisation import place
from metasum.training.processes import Processes
from metasum.weights.composition import OPERATORS

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_learner(
    networks: MetaSum, plan: Plan, fabric: Fabric, *, note: Callable[[str], None] = lambda _: None
) -> TrainedLearner:
    """The plan's learner, on the device or, with `--fsdp`, this process's piece of it.

    Args:
        networks: the pair at its start, on the CPU. With `--fsdp` it stays there, for the first process to measure.
        plan: of the run.
        fabric: the device, and the processes.
        note: hears why kernels do not lie in the usual layout, where that is so.

    Raises:
        UsageError: `--memory-format channels-last` is not safe here; see `checked_layout`.
    """
    learner = new_learner(plan, networks)
    if not plan.processes.fsdp:
        together = Processes(fabric)
        layout, why = together.agreed(
            lambda: checked_layout(
                plan.optimisation.memory_format,
                (networks.target, networks.support),  # as the learner has made them
                (max(1, plan.data.batch_size // together.count), plan.data.in_channels, 32, 32),
                fabric.device,
                precision=plan.optimisation.precision,
            )
        )
        if why is not None:
            note(why)
        place(learner, fabric.device, layout)
        return learner
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(fabric.device.type, (fabric.world_size,))
    narrow = torch.bfloat16 if plan.optimisation.precision == "bf16-mixed" else None
    pieces = new_learner(plan, ShardedMetaSum(networks, mesh, precision=narrow))
    return ShardedLearner(pieces, learner, device=fabric.device, first=fabric.global_rank == 0)


def check_pieces(plan: Plan, together: Processes) -> None:
    """Raises UsageError for a run whose networks cannot be cut into pieces."""
    import torch.distributed.fsdp

    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        raise UsageError(f"--fsdp needs PyTorch 2.6 or later; this is {torch.__version__}.")
    for wrapped in ("tangent", "augmented"):
        if getattr(plan.network, wrapped):
            raise UsageError(f"--fsdp: --{wrapped} needs whole networks in training.")
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
