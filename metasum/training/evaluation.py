"""The only evaluation loop: accuracy before and after the sum, on the target's images and on the support's.

Both are measured alike: where the sum's statistics are recalibrated on the images at hand, so are the network's alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metasum.config.sections import EvaluationConfig
from metasum.learners.trainable import TrainedLearner
from metasum.networks.cutting import in_blocks
from metasum.networks.heads import head_of
from metasum.results.accuracy import BeforeAfter, Evaluation
from metasum.types import Batch, Buffers, Sides, Task
from metasum.weights.copies import copy_of
from metasum.weights.guesses import guesses
from metasum.weights.statistics import (
    RECALIBRATE,
    normalisers,
    recalibrate,
    settle_statistics,
    settled_policy,
    sources_of,
)

Autocast = Callable[[], AbstractContextManager[object]]
UNKNOWN: Sides[float | None] = Sides(None, None)


class FinalEvaluation(NamedTuple):
    """What a finished run is measured by."""

    accuracy: Evaluation
    after_by_operator: dict[str, dict[str, float]]
    """Accuracy of the sum on "target" and "support" under each operator, statistics recalibrated on each."""
    own_heads: bool
    """Whether each side's sum has its own network's head."""
    statistics: str
    """The policy by which statistics were settled."""
    alone: Sides[nn.Module]
    """Each network alone, as it was trained."""
    measured_alone: Sides[nn.Module]
    """The same as it was measured: with recalibrated statistics a copy."""
    summed: Sides[nn.Module]
    """The sum as it was measured on each dataset."""
    confusion_before: Sides[Tensor]
    """Of each network alone on its dataset, `[classes, classes]`; `confusion_after`: of the sum."""
    confusion_after: Sides[Tensor]
    sum_seconds: float
    """What making the sum took, or the merging, with both sides' statistics."""


def confusion(network: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """How often images of each class (row) were taken for each class (column): int64 `[classes, classes]`, on the CPU.

    No gradient is recorded. Raises DivergenceError where a logit is NaN.
    """
    counts: Tensor | None = None
    with torch.inference_mode():
        for images, labels in batches:
            logits = network(images)
            classes = logits.shape[1]
            found = (classes * labels + guesses(logits)).bincount(minlength=classes**2)
            counts = found if counts is None else counts + found
    if counts is None:
        raise ValueError("accuracy needs at least one batch")
    return counts.reshape(classes, classes).cpu()


def accuracy(network: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of images whose largest logit is their label's, in [0, 1], to six digits. No gradient is recorded."""
    return share_right(confusion(network, batches))


def share_right(matrix: Tensor) -> float:
    """The accuracy that a confusion matrix tells, in [0, 1], to six digits."""
    return round(int(matrix.diagonal().sum()) / int(matrix.sum()), 6)


class Evaluator:
    """Measures a learner on fixed images.

    Where statistics are recalibrated, a network or sum that is measured on a dataset gets them from that dataset.

    Args:
        target: the target's task; `support` likewise.
        settings: the statistics policy, and what recalibration reads.
        autocast: the precision that networks run in.
    """

    def __init__(self, target: Task, support: Task, *, settings: EvaluationConfig, autocast: Autocast) -> None:
        self.tasks = Sides(target, support)
        self._settings, self._autocast = settings, autocast

    def on_the_way(self, learner: TrainedLearner, *, limit: int | None = None) -> Evaluation:
        """Accuracies of target, support and sum, on at most `limit` images of each dataset.

        With a limit, statistics are of at most as many images, and of half of those that there are (a batch at least):
        a network alone and the sum together read no more than one reads without.
        """
        with self._autocast():
            alone = Sides(learner.target_network(), learner.support_network())
            images, statistics = self._images(limit), statistics_of(learner, alone, self._settings.statistics)
            before = self._confusions(settled_alone(alone, images, statistics), limit)
            head = self._kept_head(alone, images)
            summed = settled_sum(learner, alone, images, statistics=statistics, head=head)
            return _evaluation(before, self._confusions(summed, limit))

    def everything(self, learner: TrainedLearner) -> FinalEvaluation:
        """Accuracies on all images, under every operator, and the sum itself; each sum is made once."""
        after: dict[tuple[str, str], Sides[Tensor]] = {}
        seconds: dict[tuple[str, str], float] = {}
        with self._autocast():
            alone = Sides(learner.target_network(), learner.support_network())
            policy = statistics_of(learner, alone, self._settings.statistics)
            measured = settled_alone(alone, self._images(), policy)
            before, own = self._confusions(measured), (learner.operators[0], policy)
            running = self._running(alone) if policy == RECALIBRATE else UNKNOWN
            head = self._kept_head(alone, self._images())
            for operator, statistics in dict.fromkeys([own, *((o, RECALIBRATE) for o in learner.operators)]):
                images, started = self._images(), time.perf_counter()
                whole = (operator, statistics) == own  # it is saved
                settled: dict[str, Any] = {"operator": operator, "statistics": statistics, "whole": whole}
                networks = settled_sum(learner, alone, images, **settled, head=head)
                seconds[operator, statistics] = time.perf_counter() - started
                after[operator, statistics] = self._confusions(networks)
                if whole:
                    summed = networks
        by_operator = {
            operator: {side: share_right(m) for side, m in after[operator, RECALIBRATE]._asdict().items()}
            for operator in learner.operators
        }
        return FinalEvaluation(
            accuracy=_evaluation(before, after[own], running),
            after_by_operator=by_operator,
            own_heads=head is not None,
            statistics=policy,
            alone=alone,
            measured_alone=measured,
            summed=summed,
            confusion_before=before,
            confusion_after=after[own],
            sum_seconds=seconds[own],
        )

    def _kept_head(self, alone: Sides[nn.Module], images: Sides[Sequence[Tensor]]) -> frozenset[str] | None:
        """Names of what each network keeps for itself in the sum; None where heads are summed."""
        return head_of(alone.target, images.target[0][:2]) if self._settings.heads == "own" else None

    def _confusions(self, networks: Sides[nn.Module], limit: int | None = None) -> Sides[Tensor]:
        """Of each side's network on that side's images."""
        target, support = (
            confusion(in_blocks(network), task.evaluation(limit))
            for network, task in zip(networks, self.tasks, strict=True)
        )
        return Sides(target, support)

    def _running(self, alone: Sides[nn.Module]) -> Sides[float | None]:
        """Accuracies with running statistics, of the networks that have any."""
        target, support = (
            accuracy(network, task.evaluation()) if normalisers(network) else None
            for network, task in zip(alone, self.tasks, strict=True)
        )
        return Sides(target, support)

    def _images(self, limit: int | None = None) -> Sides[Sequence[Tensor]]:
        target, support = (list(task.calibration(self._settings.calibration_batches)) for task in self.tasks)
        return Sides(target, support) if limit is None else Sides(_some(target, limit), _some(support, limit))


def _some(batches: Sequence[Tensor], limit: int) -> Sequence[Tensor]:
    """The first half of them, as far as that is no more than `limit` images; one at least."""
    return batches[: max(1, min(len(batches) // 2, limit // len(batches[0])))]


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


def _evaluation(before: Sides[Tensor], after: Sides[Tensor], running: Sides[float | None] = UNKNOWN) -> Evaluation:
    sides = zip(before, after, running, strict=True)
    return Evaluation(*(BeforeAfter(share_right(b), share_right(a), own) for b, a, own in sides))
