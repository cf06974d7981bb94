"""A second-order step of meta-training, and the same loop in the libraries' own words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metasum import third_party
from metasum.learners.meta import split_batch
from metasum.types import Batch

INNER_LR = 0.01


def learn2learn_loss(model: nn.Module, parts: list[list[Batch]]) -> Tensor:
    """The episode as learn2learn's users write it: MAML's clones, each adapted on all but the last of its parts."""
    maml = third_party.learn2learn().algorithms.MAML(model, lr=INNER_LR)
    clones = [maml.clone() for _ in parts]
    for clone, own in zip(clones, parts, strict=True):
        for part in own[:-1]:
            clone.adapt(_loss(clone, part))
    ends = [dict(clone.module.named_parameters()) for clone in clones]
    return _outer(model, clones, ends, parts)


def higher_loss(model: nn.Module, parts: list[list[Batch]]) -> Tensor:
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


USUAL_LOOPS: dict[str, Callable[[nn.Module, list[list[Batch]]], Tensor]] = {
    "plain learn2learn": learn2learn_loss,
    "plain higher": higher_loss,
}


def parts_of(batches: Sequence[Batch], *, inner_steps: int) -> list[list[Batch]]:
    """Each batch in a part for each inner step and one more to evaluate on."""
    return [split_batch(batch, inner_steps + 1) for batch in batches]


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
