"""Networks and their sum as they are measured on a dataset: whose batch-norm statistics they have."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from metasum.learners.trainable import TrainedLearner
from metasum.networks.cutting import in_blocks
from metasum.types import Buffers, Sides
from metasum.weights.copies import copy_of
from metasum.weights.statistics import recalibrate
from metasum.weights.statistics_policy import RECALIBRATE, settle_statistics, settled_policy, sources_of


def statistics_of(learner: TrainedLearner, alone: Sides[nn.Module], policy: str | None) -> str:
    """The policy, or the one that suits the learner's networks where there is none; see `settled_policy`.

    Raises:
        UsageError: "own" where the networks have channels in common, or under an operator that does not keep functions.
    """
    return settled_policy(policy, _sources(learner, alone, None))


def settled_alone(alone: Sides[nn.Module], images: Sides[Sequence[Tensor]], statistics: str) -> Sides[nn.Module]:
    """Each network as it is measured on its own dataset: under "recalibrate" a copy with statistics of these images.

    Args:
        alone: target and support network, which are left as they are.
        images: unlabelled training images of each dataset, batches `[N, C, H, W]`.
        statistics: the policy; under any other, a network has its running ones.
    """
    if statistics != RECALIBRATE:
        return alone
    return Sides(*(recalibrate(copy_of(network), own) for network, own in zip(alone, images, strict=True)))


def _sources(learner: TrainedLearner, alone: Sides[nn.Module], operator: str | None) -> dict[str, Buffers]:
    """Whose statistics the learner's sum can have."""
    return sources_of(
        alone._asdict(), learned=learner.sum_statistics(), own=learner.own_statistics(alone, operator=operator)
    )


def settled_sum(
    learner: TrainedLearner,
    alone: Sides[nn.Module],
    images: Sides[Sequence[Tensor]],
    *,
    operator: str | None = None,
    statistics: str | None = None,
    whole: bool = True,
    head: frozenset[str] | None = None,
) -> Sides[nn.Module]:
    """The third network as each side measures it, with batch-norm statistics of its own: a module each, in eval mode.

    Args:
        learner: composes it.
        alone: target and support network, whose statistics it gets with the policies "target", "support" and "own".
        images: unlabelled training images of each dataset, batches `[N, C, H, W]`.
        operator: one of the learner's [default: its first].
        statistics: the policy, as `--statistics` takes it.
        whole: with all the learner's channels; else, with recalibrated statistics, in as few as compute the same.
        head: names of parameters that each side's network keeps for itself [default: all are composed].

    Raises:
        UsageError: "learned" where training never ran the sum; or "own" where the sum cannot have them.
    """
    sources = {} if statistics == RECALIBRATE else _sources(learner, alone, operator)
    if head is None:
        target, support = learner.compose(images, operator=operator)
    else:
        target, support = learner.compose_trunk(images, head, operator=operator)
    pair = Sides(target, copy.deepcopy(support) if support is target else support)
    if not whole:
        pair = Sides(*map(in_blocks, pair))
    return Sides(
        *(settle_statistics(own, statistics, batches, sources) for own, batches in zip(pair, images, strict=True))
    )
