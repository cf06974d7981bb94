"""Sum, average and weighted sum of networks, entry by entry."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from metasum.config import Checked, option
from metasum.merging.endpoints import WideningMethod
from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors
from metasum.merging.weights import check_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from metasum.weights.batches import Forward


class Sum(TensorMethod):
    """θ_1 + θ_2 + …"""

    name = "sum"
    summary = "The plain sum."
    keeps_functions = True
    compared = False  # learner `independent` adds its networks

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import total_

        return lambda chunk: total_(chunk.values)


class Average(TensorMethod):
    """(θ_1 + … + θ_N) / N."""

    name = "average"
    summary = "The plain average of independently trained networks."
    paper = "Wortsman et al. 2022, arXiv:2203.05482"
    two_starts = True

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import average_

        return lambda chunk: average_(chunk.values)


class SideBySide(WideningMethod):
    """The networks side by side in one as wide as all of them: their weights added, each in a place of its own."""

    name = "side-by-side"
    summary = "Networks side by side in one as wide as all of them: their ensemble as one network."
    keeps_functions = True

    def network(
        self, networks: Sequence[nn.Module], images: Any = None, *, forward: Forward | None = None
    ) -> nn.Module:
        from metasum.networks.beside import beside

        return beside(networks, images, forward=forward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedConfig(Checked):
    """Settings of `weighted`."""

    weights: tuple[float, ...] = option(
        (), "Factor on each network, taken as they are: for a mean, let them add up to 1 (weighted)."
    )


class Weighted(TensorMethod):
    """w_1 θ_1 + w_2 θ_2 + …"""

    name = "weighted"
    summary = "A sum with a weight for each network."
    Config = WeightedConfig
    layered = "weights"
    compared = False

    def check(self, count: int, *, what: str = "networks") -> None:
        super().check(count, what=what)
        check_weights(self, count, what=what, optional=False)

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import total_

        def merge(chunk: Chunk) -> Tensor:
            weights = self.setting(chunk.part.name)
            return total_([value.mul_(weight) for value, weight in zip(chunk.values, weights, strict=True)])

        return merge
