"""The only evaluation loop: accuracy before and after the sum, on the target's images and on the support's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metasum.config.sections import EvaluationConfig
from metasum.learners.learner import TrainedLearner
from metasum.results.accuracy import BeforeAfter, Evaluation
from metasum.types import Batch, Sides, Task
from metasum.weights.parameters import buffers_of
from metasum.weights.statistics import settle_statistics

Autocast = Callable[[], AbstractContextManager[object]]


class FinalEvaluation(NamedTuple):
    """What a finished run is measured by."""

    accuracy: Evaluation
    after_by_operator: dict[str, dict[str, float]]
    """Accuracy of the sum on "target" and "support" under each operator, statistics recalibrated on each."""
    alone: Sides[nn.Module]
    """Each network alone."""
    summed: Sides[nn.Module]
    """The sum as it was measured on each dataset."""
    confusion_before: Sides[Tensor]
    """Of each network alone on its dataset, `[classes, classes]`; `confusion_after`: of the sum."""
    confusion_after: Sides[Tensor]
    sum_seconds: float
    """What making the sum took, or the merging, with both sides' statistics."""


def confusion(network: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """How often images of each class (row) were taken for each class (column): int64 `[classes, classes]`, on the CPU.

    No gradient is recorded.
    """
    counts: Tensor | None = None
    with torch.inference_mode():
        for images, labels in batches:
            logits = network(images)
            classes = logits.shape[1]
            found = (classes * labels + logits.argmax(1)).bincount(minlength=classes**2)
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

    Where statistics are recalibrated, a sum that is measured on a dataset gets them from that dataset.

    Args:
        target: the target's task; `support` likewise.
        settings: the statistics policy, and what recalibration reads.
        autocast: the precision that networks run in.
    """

    def __init__(self, target: Task, support: Task, *, settings: EvaluationConfig, autocast: Autocast) -> None:
        self.tasks = Sides(target, support)
        self._settings, self._autocast = settings, autocast

    def on_the_way(self, learner: TrainedLearner, *, limit: int | None = None) -> Evaluation:
        """Accuracies of target, support and sum, on at most `limit` images of each dataset."""
        with self._autocast():
            alone = Sides(learner.target_network(), learner.support_network())
            before = self._confusions(alone, limit)
            summed = settled_sum(learner, alone, self._images(), statistics=self._settings.statistics)
            return _evaluation(before, self._confusions(summed, limit))

    def everything(self, learner: TrainedLearner) -> FinalEvaluation:
        """Accuracies on all images, under every operator, and the sum itself; each sum is made once."""
        own = (learner.operators[0], self._settings.statistics)
        after: dict[tuple[str, str], Sides[Tensor]] = {}
        seconds: dict[tuple[str, str], float] = {}
        with self._autocast():
            alone = Sides(learner.target_network(), learner.support_network())
            before = self._confusions(alone)
            for operator, statistics in dict.fromkeys([own, *((o, "recalibrate") for o in learner.operators)]):
                images, started = self._images(), time.perf_counter()
                networks = settled_sum(learner, alone, images, operator=operator, statistics=statistics)
                seconds[operator, statistics] = time.perf_counter() - started
                after[operator, statistics] = self._confusions(networks)
                if (operator, statistics) == own:
                    summed = networks
        by_operator = {
            operator: {side: share_right(m) for side, m in after[operator, "recalibrate"]._asdict().items()}
            for operator in learner.operators
        }
        return FinalEvaluation(
            _evaluation(before, after[own]), by_operator, alone, summed, before, after[own], seconds[own]
        )

    def _confusions(self, networks: Sides[nn.Module], limit: int | None = None) -> Sides[Tensor]:
        """Of each side's network on that side's images."""
        target, support = (
            confusion(network, task.evaluation(limit)) for network, task in zip(networks, self.tasks, strict=True)
        )
        return Sides(target, support)

    def _images(self) -> Sides[Sequence[Tensor]]:
        target, support = (list(task.calibration(self._settings.calibration_batches)) for task in self.tasks)
        return Sides(target, support)


def settled_sum(
    learner: TrainedLearner,
    alone: Sides[nn.Module],
    images: Sides[Sequence[Tensor]],
    *,
    operator: str | None = None,
    statistics: str = "recalibrate",
) -> Sides[nn.Module]:
    """The third network as each side measures it, with batch-norm statistics of its own: a module each, in eval mode.

    Args:
        learner: composes it.
        alone: target and support network, whose statistics it gets with the policies "target" and "support".
        images: unlabelled training images of each dataset, batches `[N, C, H, W]`.
        operator: one of the learner's [default: its first].
        statistics: the policy, as `--statistics` takes it.

    Raises:
        UsageError: "learned" where training never ran the sum.
    """
    sources = {side: buffers_of(network) for side, network in alone._asdict().items()}
    if (kept := learner.sum_statistics()) is not None:
        sources["learned"] = dict(kept)
    target, support = learner.compose(images, operator=operator)
    pair = Sides(target, copy.deepcopy(support) if support is target else support)
    return Sides(
        *(settle_statistics(own, statistics, batches, sources) for own, batches in zip(pair, images, strict=True))
    )


def _evaluation(before: Sides[Tensor], after: Sides[Tensor]) -> Evaluation:
    return Evaluation(*(BeforeAfter(share_right(b), share_right(a)) for b, a in zip(before, after, strict=True)))
