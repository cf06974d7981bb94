"""The only evaluation loop: accuracy before and after the sum, on the target's images and on the support's.

Both are measured alike: where the sum's statistics are recalibrated on the images at hand, so are the network's alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor, nn

from metasum.config.sections import EvaluationConfig
from metasum.learners.trainable import TrainedLearner
from metasum.networks.cutting import in_blocks
from metasum.networks.heads import head_of
from metasum.results.accuracy import BeforeAfter, Evaluation
from metasum.training.confusion import accuracy, confusion, share_right
from metasum.training.settling import settled_alone, settled_sum, statistics_of
from metasum.types import Sides, Task
from metasum.weights.statistics import normalisers
from metasum.weights.statistics_policy import RECALIBRATE

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


def _evaluation(before: Sides[Tensor], after: Sides[Tensor], running: Sides[float | None] = UNKNOWN) -> Evaluation:
    sides = zip(before, after, running, strict=True)
    return Evaluation(*(BeforeAfter(share_right(b), share_right(a), own) for b, a, own in sides))
