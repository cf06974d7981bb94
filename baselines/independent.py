"""Independent training, the endpoints of the plain sum, the plain average and every merging method.

Two networks minimise their own loss, with no thought of being added: what model soups (Wortsman et al. 2022,
arXiv:2203.05482) average, here on different datasets.
"""

from __future__ import annotations

from typing import Any, ClassVar

from metasum.config import Checked
from metasum.learners.learner import Learner, Start
from metasum.learners.settings import OperatorConfig, PlainOperatorConfig


class IndependentLearner(Learner):
    """L = CE(f(θ_t; x_t), y_t) + CE(f(θ_s; x_s), y_s): neither network's gradient depends on the other."""

    name = "independent"
    summary = "Trains each network alone: the plain sum."
    paper = "Wortsman et al. 2022, arXiv:2203.05482"
    Config: ClassVar[type[Checked]] = OperatorConfig

    @classmethod
    def needs_whole(cls, config: Any) -> None:
        return None


class TwoStartsLearner(IndependentLearner):
    """The same from two initialisations."""

    name = "independent-two-inits"
    summary = "The plain sum of networks from two initialisations."
    Config = PlainOperatorConfig
    start = Start.OWN
