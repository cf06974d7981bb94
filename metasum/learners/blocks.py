"""Slots of fixed thickness: each network is trained alone, and added ones stand side by side in a wider network.

With slots, networks share the channels of one network, and have to agree on how many will come. Here the whole grows
with them: the sum of N networks is N times as wide, each network's weights in channels of its own, and strangers agree
on nothing but their architecture. It is block diagonal, so that it costs what N networks cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from metasum.learners.silence import SilenceConfig, SilentLearner
from metasum.networks.beside import beside
from metasum.types import Buffers, Sides
from metasum.weights.parameters import buffers_of


class BlocksLearner(SilentLearner):
    """Two networks are trained to be quiet; the third is both, side by side, with each one's own statistics.

    Args:
        networks: the pair.
        config: how quiet.
        seed: not looked at.
    """

    name = "blocks"
    summary = "Each network alone and quiet on foreign images; added, they stand side by side in a wider one."
    paper = "Hendrycks et al. 2019, Outlier Exposure, arXiv:1812.04606"
    Config = SilenceConfig
    preset = {"statistics": "own"}
    candidates = {"learning_rate": (5e-4, 1e-3, 2e-3)}
    method = "side-by-side"

    @classmethod
    def against_own_heads(cls) -> str:
        return "gives each network channels of its own: with its own head it would be that network alone"

    @property
    def operators(self) -> tuple[str, ...]:
        return (str(self.method),)

    def compose(self, images: Sides[Sequence[Tensor]], *, operator: str | None = None) -> Sides[nn.Module]:
        network = beside([self.target_network(), self.support_network()])
        return Sides(network, network)

    def own_statistics(self, alone: Sides[nn.Module], *, operator: str | None = None) -> Buffers | None:
        return buffers_of(beside(alone))
