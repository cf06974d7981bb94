"""Accuracy over many few-shot episodes, with its 95 % confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metasum.learners.few_shot import FewShotLearner
from metasum.training.evaluation import Autocast
from metasum.types import FewShotEpisode


@dataclass(frozen=True)
class EpisodeAccuracy:
    """Mean accuracy over episodes, in [0, 1]."""

    mean: float
    interval: float
    """Half the width of the mean's 95 % confidence interval (Student's t over episodes)."""
    episodes: int

    def __str__(self) -> str:
        return f"{self.mean:.2%} ± {100 * self.interval:.2f} over {self.episodes} episodes"


def episode_accuracy(
    learner: FewShotLearner, episodes: Iterable[FewShotEpisode], *, autocast: Autocast
) -> EpisodeAccuracy:
    """Measures a learner in eval mode on at least two episodes; draws of its own are the same every time."""
    from scipy.stats import t

    learner.eval()
    shares = []
    with torch.random.fork_rng(), torch.no_grad(), autocast():
        torch.manual_seed(0)
        for adaptation, evaluation, _ in episodes:
            right = learner.logits(adaptation, evaluation.images).argmax(dim=1) == evaluation.labels
            shares.append(float(right.float().mean()))
    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    interval = float(t.ppf(0.975, len(shares) - 1) * error)
    return EpisodeAccuracy(round(float(np.mean(shares)), 6), round(interval, 6), len(shares))


class FewShotEvaluator:
    """Measures what is being trained on the same validation episodes every time.

    Args:
        episodes: makes them.
        autocast: the precision that networks run in.
        view: from what is trained to a few-shot learner [default: it is one].
    """

    def __init__(
        self,
        episodes: Callable[[], Iterable[FewShotEpisode]],
        *,
        autocast: Autocast,
        view: Callable[[Any], FewShotLearner] = lambda learner: learner,
    ) -> None:
        self._episodes, self._autocast, self._view = episodes, autocast, view

    def on_the_way(self, learner: Any, *, limit: int | None = None) -> EpisodeAccuracy:
        """Mean over the episodes; `limit` is not looked at: their number was chosen before."""
        return episode_accuracy(self._view(learner), self._episodes(), autocast=self._autocast)
