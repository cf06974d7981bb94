"""Merging methods as ways of training: two networks trained alone, whose sum is what a method makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from metasum.baselines.independent import IndependentLearner, TwoStartsLearner
from metasum.learners.learner import Learner, Start
from metasum.learners.networks import MetaSum
from metasum.merging.endpoints import Endpoint, WideningMethod
from metasum.merging.memory import merged_network, merged_tasks
from metasum.merging.method import Method
from metasum.types import Buffers, Sides
from metasum.weights.parameters import BufferSet, buffers_of, parameters_of


class MergingLearner(Learner):
    """Trains two networks independently; the sum is what a merging method makes of them.

    Args:
        networks: the pair; the target's weights as they come are θ_0.
        config: the method's.
        seed: of what the method draws.
    """

    merges: ClassVar[type[Method]]

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        self._start = BufferSet(parameters_of(networks.target), persistent=False)
        self._method = self.merges(config, seed=seed)

    @classmethod
    def against_own_heads(cls) -> str | None:
        return cls.merges.against_own_heads() or super().against_own_heads()

    @property
    def operators(self) -> tuple[str, ...]:
        return (self.merges.name,)

    def own_statistics(self, alone: Sides[nn.Module], *, operator: str | None = None) -> Buffers | None:
        return buffers_of(self._method.network(alone)) if isinstance(self._method, WideningMethod) else None

    def compose(self, images: Sides[Sequence[Tensor]], *, operator: str | None = None) -> Sides[nn.Module]:
        if self.merges.knows_task:
            return self.compose_trunk(images, frozenset())
        network = merged_network(self._method, self._endpoints(images), self._start.by_name())
        return Sides(network, network)

    def compose_trunk(
        self, images: Sides[Sequence[Tensor]], head: frozenset[str], *, operator: str | None = None
    ) -> Sides[nn.Module]:
        """The method is shown the rest of the networks only: the head is kept, as by `keep=` of `metasum.merge`."""
        return Sides(*merged_tasks(self._method, self._endpoints(images, head), self._start.by_name()))

    def _endpoints(self, images: Sides[Sequence[Tensor]], kept: frozenset[str] = frozenset()) -> list[Endpoint]:
        own = self.target_network(), self.support_network()
        return [Endpoint(network, batches, kept=kept) for network, batches in zip(own, images, strict=True)]


def merging_learner(method: type[Method], *, two_starts: bool = False) -> type[MergingLearner]:
    """The learner that trains networks alone and merges them by `method`.

    Args:
        method: which.
        two_starts: whether the networks start from two initialisations: learner `<method>-two-inits`.
    """
    own = Start.OWN if two_starts else Start.ANY
    facts = {
        "name": f"{method.name}-two-inits" if two_starts else method.name,
        "summary": f"{method.summary} From two initialisations." if two_starts else method.summary,
        "paper": method.paper,
        "Config": method.Config,
        "candidates": {} if two_starts else method.candidates,
        "start": Start.SHARED if method.needs_base else own,
        "endpoints": (TwoStartsLearner if two_starts else IndependentLearner).name,
        "method": method.name,
        "no_merge": method.no_merge(),
        "merges": method,
        "__doc__": method.__doc__,
        "__module__": __name__,
    }
    return type(f"{method.__name__}Learner", (MergingLearner,), facts)
