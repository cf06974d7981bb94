"""Accuracy over many few-shot episodes, with its 95 % confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metasum.learners.few_shot import FewShotLearner
from metasum.results.accuracy import EpisodeAccuracy
from metasum.training.evaluation import Autocast
from metasum.types import FewShotEpisode
from metasum.weights.guesses import guesses


def episode_shares(learner: FewShotLearner, episodes: Iterable[FewShotEpisode], *, autocast: Autocast) -> list[float]:
    """Of each episode, the share of evaluation images that a learner in eval mode gets right.

    Draws of its own are the same every time.
    """
    learner.eval()
    shares = []
    with torch.random.fork_rng(), torch.no_grad(), autocast():
        torch.manual_seed(0)
        for adaptation, evaluation, _ in episodes:
            right = guesses(learner.logits(adaptation, evaluation.images)) == evaluation.labels
            shares.append(float(right.float().mean()))
    return shares


def mean_of(shares: Sequence[float]) -> EpisodeAccuracy:
    """Mean and interval over at least two episodes."""
    from scipy.stats import t

    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    interval = float(t.ppf(0.975, len(shares) - 1) * error)
    return EpisodeAccuracy(round(float(np.mean(shares)), 6), round(interval, 6), len(shares))


def differences(shares: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, EpisodeAccuracy]]:
    """By learner and other learner, the mean of the first's share less the other's on the same episodes.

    Pairing the episodes makes the interval narrower than those of the two means: what is hard for one is hard for both.

    Args:
        shares: by learner, for each seed, one share an episode; of several seeds their mean is taken.
    """
    means = {name: np.mean(np.asarray(found), axis=0) for name, found in shares.items()}
    return {
        name: {other: mean_of(own - theirs) for other, theirs in means.items() if other != name}
        for name, own in means.items()
    }


@dataclass(frozen=True)
class FewShotEvaluator:
    """Measures what is being trained on the same validation episodes every time."""

    episodes: Callable[[], Iterable[FewShotEpisode]]
    autocast: Autocast
    view: Callable[[Any], FewShotLearner]
    """From what is trained to a few-shot learner."""

    def on_the_way(self, learner: Any, *, limit: int | None = None) -> EpisodeAccuracy:
        """Mean over the episodes; `limit` is not looked at: their number was chosen before."""
        return mean_of(episode_shares(self.view(learner), self.episodes(), autocast=self.autocast))
