"""A second-order meta-training step against the arithmetic minimum, and against the libraries' own loops."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metasum import third_party
from metasum.config import BenchmarkConfig, NetworkConfig, ObjectiveConfig, OptimisationConfig
from metasum.learners.meta import MetaLearner, split_batch
from metasum.learners.networks import MetaSum
from metasum.networks.build import build_network
from metasum.study.benchmark import race, random_batch, timed
from metasum.training.optimisation import Updater, make_fabric
from metasum.types import Batch

INNER_LR = 0.01
PASSES_OF_A_STEP = 3  # forward and backward of an inner step are one pass; their own backward costs twice that


def run_meta_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Times a meta-step of two clones, K inner steps each, in every backend and in plain learn2learn and higher.

    The minimum is the same network's forward and backward passes, as many as the arithmetic needs: for each inner
    step three times a plain pass (a backward's backward multiplies each of its two matrices twice), and three
    passes for the outer loss. `batch_size` images go into each.

    Returns:
        As `run_benchmark`, with "passes", the plain passes of the minimum.

    Raises:
        UsageError: an unknown backend; a device that is not there.
    """
    fabric = make_fabric(OptimisationConfig(device=config.device, precision=config.precision))
    steps, batch = config.inner_steps, config.batch_size
    generator = torch.Generator().manual_seed(0)
    pair = [random_batch((steps + 1) * batch, generator, fabric.device) for _ in range(2)]
    model = build_network(NetworkConfig(width=config.width, num_classes=10), in_channels=1, seed=0).to(fabric.device)
    passes = 2 * steps * PASSES_OF_A_STEP + 3
    settings = OptimisationConfig(steps=1, learning_rate=1e-3, device=config.device, precision=config.precision)

    def plain() -> None:
        model.zero_grad(set_to_none=True)
        for _ in range(passes):
            with fabric.autocast():
                loss = cross_entropy(model(pair[0].images[:batch]), pair[0].labels[:batch])
            fabric.backward(loss)

    work: dict[str, Callable[[], None]] = {}
    updaters = []
    for name in (word.strip() for word in config.backends.split(",")):
        networks = MetaSum(model, shared=True, inner_lr=INNER_LR, backend=name)
        learner = MetaLearner(networks, ObjectiveConfig(), inner_steps=steps)
        updaters.append(Updater(learner, settings, fabric))
        work[name] = _ours(learner, pair, updaters[-1], fabric.autocast)
    for name, loss_of in (("plain learn2learn", _learn2learn_loss), ("plain higher", _higher_loss)):
        work[name] = _theirs(loss_of, model, [split_batch(side, steps + 1) for side in pair], fabric)
    rows = race(plain, work, config, fabric.device, learner="metasum-meta")
    updates = list[float]()
    for _ in range(config.repeats + 1):
        next(iter(work.values()))()  # an update without gradients would be timed as nothing
        updates.append(timed(updaters[0].update, fabric.device))
    return {
        "rows": rows,
        "learner": "metasum-meta",
        "passes": passes,
        "inner_steps": steps,
        "width": config.width,
        "batch": batch,
        "precision": config.precision,
        "device": str(fabric.device),
        "threads": torch.get_num_threads(),
        "repeats": config.repeats,
        "optimizer_seconds": statistics.median(updates[1:]),
    }


def _ours(learner: MetaLearner, pair: Sequence[Batch], updater: Updater, autocast: Any) -> Callable[[], None]:
    def step() -> None:
        learner.zero_grad(set_to_none=True)
        with autocast():
            learner.training_step(*pair, backward=updater.backward)

    return step


def _theirs(
    loss_of: Callable[[nn.Module, list[list[Batch]]], Tensor], model: nn.Module, parts: list[list[Batch]], fabric: Any
) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        with fabric.autocast():
            loss = loss_of(model, parts)
        fabric.backward(loss)

    return step


def _learn2learn_loss(model: nn.Module, parts: list[list[Batch]]) -> Tensor:
    """The episode as learn2learn's users write it."""
    maml = third_party.learn2learn().algorithms.MAML(model, lr=INNER_LR)
    clones = [maml.clone() for _ in parts]
    for clone, own in zip(clones, parts, strict=True):
        for part in own[:-1]:
            clone.adapt(_loss(clone, part))
    ends = [dict(clone.module.named_parameters()) for clone in clones]
    return _outer(model, clones, ends, parts)


def _higher_loss(model: nn.Module, parts: list[list[Batch]]) -> Tensor:
    """The episode as higher's users write it."""
    higher, clones = third_party.higher(), []
    for own in parts:
        optimizer = torch.optim.SGD(model.parameters(), INNER_LR)
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (clone, stepper):
            for part in own[:-1]:
                stepper.step(_loss(clone, part))
        clones.append(clone)
    names = [name for name, _ in model.named_parameters()]
    ends = [dict(zip(names, clone.fast_params, strict=True)) for clone in clones]
    return _outer(model, clones, ends, parts)


def _outer(
    model: nn.Module,
    clones: Sequence[Callable[[Tensor], Tensor]],
    ends: Sequence[dict[str, Tensor]],
    parts: list[list[Batch]],
) -> Tensor:
    """Both clones' losses on their last part, and the sum's on the target's."""
    summed = {name: tensor + ends[1][name] for name, tensor in ends[0].items()}
    target = parts[0][-1]
    after = cross_entropy(functional_call(model, summed, (target.images,)), target.labels)
    return _loss(clones[0], target) + _loss(clones[1], parts[1][-1]) + after


def _loss(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return cross_entropy(network(batch.images), batch.labels)
