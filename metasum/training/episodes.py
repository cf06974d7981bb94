"""How well what was meta-learnt can be adapted and added: on episodes that never change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from metasum.learners.meta import MetaLearner
from metasum.results.accuracy import BeforeAfter, Evaluation
from metasum.training.evaluation import Autocast
from metasum.types import Batch
from metasum.weights.guesses import guesses


class EpisodeEvaluator:
    """Accuracies of adapted networks alone, and of their sum, on evaluation images of fixed episodes.

    Networks normalise by the batch in hand, as they do while they are meta-trained, and drop nothing out.

    Args:
        episodes: a target's and a support's batch each, as `MetaLearner.training_step` takes them.
        autocast: the precision that networks run in.
    """

    def __init__(self, episodes: Sequence[tuple[Batch, ...]], *, autocast: Autocast) -> None:
        self._episodes, self._autocast = list(episodes), autocast

    def on_the_way(self, learner: MetaLearner, *, limit: int | None = None) -> Evaluation:
        """Means over the episodes; `limit` is not looked at: episodes are small. No gradient is kept."""
        rows = []
        learner.train()
        for module in learner.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        with self._autocast():
            for episode in self._episodes:
                clones, (target, support, *_) = learner.adapt(episode[:2], first_order=True)
                with torch.no_grad():
                    rows.append(
                        [
                            _share_right(network(batch.images), batch.labels)
                            for batch, own in ((target, clones.target), (support, clones.support))
                            for network in (own, clones.summed)
                        ]
                    )
        means = torch.tensor(rows).mean(dim=0).tolist()
        return Evaluation(BeforeAfter(*means[:2]), BeforeAfter(*means[2:]))


def _share_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((guesses(logits) == labels).float().mean())
