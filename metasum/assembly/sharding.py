"""From settings to a learner: whole on the device, or in pieces over the processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from metasum.baselines.registry import learner_named
from metasum.config import TrainConfig, flat
from metasum.errors import UsageError
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Learner
from metasum.learners.sharded import ShardedLearner, ShardedMetaSum
from metasum.training.optimisation import place
from metasum.training.processes import Processes
from metasum.weights.composition import OPERATORS

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WHOLE = ("pool", "quiet_weight", "tangent", "augmented")  # settings of which training runs other weights than its own


def make_learner(networks: MetaSum, config: TrainConfig, fabric: Fabric) -> Learner:
    """The learner that the settings name, on the device or, with `--fsdp`, its piece of it.

    Args:
        networks: the pair at its start, on the CPU. With `--fsdp` it stays there, for the first process to measure.
    """
    make = learner_named(config.learner).factory
    if not config.processes.fsdp:
        place(networks, fabric.device, config.optimisation.memory_format)
        return make(networks, config)
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(fabric.device.type, (fabric.world_size,))
    narrow = torch.bfloat16 if config.optimisation.precision == "bf16-mixed" else None
    pieces = make(ShardedMetaSum(networks, mesh, precision=narrow), config)
    return ShardedLearner(pieces, make(networks, config), device=fabric.device, first=fabric.global_rank == 0)


def check_pieces(config: TrainConfig, together: Processes) -> None:
    """Raises UsageError for a run whose networks cannot be cut into pieces; its settings are resolved."""
    import torch.distributed.fsdp

    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        raise UsageError(f"--fsdp needs PyTorch 2.6 or later; this is {torch.__version__}.")
    if not learner_named(config.learner).in_pieces:
        raise UsageError(f"--fsdp: learner {config.learner!r} needs whole networks in training.")
    given = flat(config)
    for name in WHOLE:
        if given[name]:
            raise UsageError(f"--fsdp: --{name.replace('_', '-')} needs whole networks in training.")
    if config.sum.operator not in OPERATORS:
        raise UsageError(
            f"--fsdp: --operator {config.sum.operator} needs whole networks; take {' or '.join(OPERATORS)}."
        )
    if config.optimisation.memory_format == "channels-last":
        raise UsageError("--fsdp: pieces are cut from contiguous kernels; leave --memory-format out.")
    if config.optimisation.precision == "16-mixed":
        raise UsageError("--fsdp: --precision 16-mixed scales gradients that are whole; take bf16-mixed.")
    if not together.several:
        raise UsageError("--fsdp cuts networks into a piece for each process, and there is one: add --devices 2.")
