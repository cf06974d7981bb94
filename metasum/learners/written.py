"""Learners whose networks are written from what they train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from metasum.learners.learner import Learner
from metasum.networks.heads import with_trunk
from metasum.types import Sides
from metasum.weights.composition import operator_named
from metasum.weights.parameters import parameters_of, with_parameters


class WrittenLearner(Learner, ABC):
    """A learner whose target and support network are written from what it trains; those are what it adds."""

    @abstractmethod
    def written(self, side: str) -> nn.Module:
        """The network of "target" or "support", in eval mode, cut off from the gradient."""

    def target_network(self) -> nn.Module:
        return self.written("target")

    def support_network(self) -> nn.Module:
        return self.written("support")

    def compose(self, images: Sides[Sequence[Tensor]], *, operator: str | None = None) -> Sides[nn.Module]:
        target, support = self.target_network(), self.support_network()
        network = with_parameters(target, self._composed([target, support], operator))
        return Sides(network, network)

    def compose_trunk(
        self, images: Sides[Sequence[Tensor]], head: frozenset[str], *, operator: str | None = None
    ) -> Sides[nn.Module]:
        alone = self.target_network(), self.support_network()
        trunk = {name: own for name, own in self._composed(alone, operator).items() if name not in head}
        return Sides(*(with_trunk(own, trunk) for own in alone))

    def _composed(self, alone: Sequence[nn.Module], operator: str | None) -> dict[str, Tensor]:
        compose = operator_named(operator or self.networks.operator)
        return compose([parameters_of(own) for own in alone])
