"""When to stop before the last step: where evaluations on the way have not got better for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from metasum.learners.trainable import Trainable


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    """Updates before it."""
    score: float
    weights: dict[str, Tensor]
    """Parameters and buffers as they were then: copies, without gradient."""


class Patience:
    """Hears every evaluation, keeps the weights of the best, and says when to stop.

    An evaluation is better than the best so far where its score is greater; an equal one is not.

    Args:
        allowed: evaluations in a row that bring nothing better; with the last of them it is over.
        score: the number in an evaluation that is to rise.
    """

    def __init__(self, allowed: int, *, score: Callable[[Any], float]) -> None:
        self._allowed, self._score = allowed, score
        self._since = 0  # evaluations since the best
        self.best: Best | None = None

    @property
    def over(self) -> bool:
        return self._since >= self._allowed

    def heard(self, step: int, evaluation: Any, learner: Trainable) -> None:
        """Takes an evaluation of a learner as it is after so many updates; the learner is whole, and in one process."""
        score = float(self._score(evaluation))
        if self.best is not None and score <= self.best.score:
            self._since += 1
            return
        self._since = 0
        self.best = Best(step, score, {name: kept.detach().clone() for name, kept in learner.state_dict().items()})

    def return_to_best(self, learner: Trainable) -> None:
        """Gives the learner, in place, the weights of the best evaluation; nothing happens where there was none."""
        if self.best is not None:
            learner.load_state_dict(self.best.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"since": self._since, "best": None if self.best is None else self.best._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where another one stood; raises KeyError or TypeError for what is none of its states."""
        self._since, best = state["since"], state["best"]
        self.best = None if best is None else Best(**best)
