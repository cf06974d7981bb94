"""The only evaluation loop: accuracy before and after the sum, on the target's images and on the support's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from metasum.config import OPERATORS, SumConfig
from metasum.learners.protocol import Learner
from metasum.types import Batch, Task

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class BeforeAfter:
    """Accuracies in [0, 1] on one dataset: of its own network alone, and of the sum."""

    before: float
    after: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracies on the target's and the support's held-out images."""

    target: BeforeAfter
    support: BeforeAfter


class FinalEvaluation(NamedTuple):
    """What a finished run is measured by."""

    accuracy: Evaluation
    after_by_operator: dict[str, dict[str, float]]
    """Accuracy of the sum on "target" and "support" under each operator, statistics recalibrated on each."""
    summed: nn.Module
    """The sum as it was measured on the target."""


def accuracy(network: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of images whose largest logit is their label's, in [0, 1], to six digits. No gradient is recorded."""
    from torchmetrics.classification import MulticlassAccuracy

    metric: MulticlassAccuracy | None = None
    with torch.inference_mode():
        for images, labels in batches:
            logits = network(images)
            if metric is None:
                metric = MulticlassAccuracy(logits.shape[1], average="micro").to(logits.device)
            metric.update(logits, labels)
    if metric is None:
        raise ValueError("accuracy needs at least one batch")
    return round(float(metric.compute()), 6)


class Evaluator:
    """Measures a learner on fixed images.

    Where statistics are recalibrated, a sum that is measured on a dataset gets them from that dataset.

    Args:
        target: the target's task; `support` likewise.
        settings: the operator and the statistics policy.
        autocast: the precision that networks run in.
    """

    def __init__(self, target: Task, support: Task, *, settings: SumConfig, autocast: Autocast) -> None:
        self._target, self._support = target, support
        self._settings, self._autocast = settings, autocast

    def before_and_after(self, learner: Learner, *, limit: int | None = None) -> Evaluation:
        """Accuracies of target, support and sum, on at most `limit` images of each dataset."""
        with self._autocast():
            return Evaluation(
                self._before_and_after(learner, learner.target_network(), self._target, limit),
                self._before_and_after(learner, learner.support_network(), self._support, limit),
            )

    def everything(self, learner: Learner) -> FinalEvaluation:
        """Accuracies on all images, under every operator, and the sum itself; each sum is made once."""
        wanted = {(operator, "recalibrate") for operator in OPERATORS}
        own = (self._settings.operator, self._settings.statistics)
        after: dict[tuple[str, str], dict[str, float]] = {}
        with self._autocast():
            for operator, statistics in sorted(wanted | {own}):
                after[operator, statistics] = {}
                for side, task in (("support", self._support), ("target", self._target)):
                    network = learner.summed_network(self._calibration(task), operator=operator, statistics=statistics)
                    after[operator, statistics][side] = accuracy(network, task.evaluation())
                if (operator, statistics) == own:
                    summed = network  # as it was measured on the target
            alone = {
                "target": accuracy(learner.target_network(), self._target.evaluation()),
                "support": accuracy(learner.support_network(), self._support.evaluation()),
            }
        evaluation = Evaluation(*(BeforeAfter(alone[side], after[own][side]) for side in ("target", "support")))
        return FinalEvaluation(evaluation, {operator: after[operator, "recalibrate"] for operator in OPERATORS}, summed)

    def _before_and_after(self, learner: Learner, alone: nn.Module, task: Task, limit: int | None) -> BeforeAfter:
        before = accuracy(alone, task.evaluation(limit))
        summed = learner.summed_network(self._calibration(task), statistics=self._settings.statistics)
        return BeforeAfter(before, accuracy(summed, task.evaluation(limit)))

    def _calibration(self, task: Task) -> Iterable[torch.Tensor]:
        return task.calibration(self._settings.calibration_batches)
