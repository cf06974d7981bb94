"""Proximity: two networks from one initialisation, each pulled towards the other's weights, upstream layers harder.

The pull is federated learning's proximal term (Li et al. 2020, FedProx, arXiv:1812.06127, eq. 2), towards the partner
where FedProx pulls towards the server, and layer by layer. With no pull it is independent training; with an ever
stronger one on the trunk and none on the head the two trunks become one: the two-head network.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from metasum.config import option
from metasum.errors import UsageError
from metasum.learners.learner import Learner, Start
from metasum.learners.networks import MetaSum
from metasum.learners.settings import OperatorConfig
from metasum.learners.trainable import Backward, Terms
from metasum.types import Batch
from metasum.weights.parameters import layers_of, parameters_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProximityConfig(OperatorConfig):
    """How proximity pulls the two networks towards each other."""

    proximity: float = option(
        1.0, "λ: strength of the pull between the two networks' weights; 0 is independent training.", minimum=0
    )
    proximity_decay: float = option(
        0.9, "c_l = decay^depth: how much weaker each layer is pulled than the one before it.", above=0, maximum=1
    )
    proximity_weights: tuple[float, ...] = option(
        (), "c_l layer by layer from the input, separated by commas, in place of the decay.", minimum=0
    )


class ProximityLearner(Learner):
    """L_t = CE_t + λ Σ_l c_l ‖θ_t,l - sg(θ_s,l)‖², and L_s its mirror image; sg: held constant.

    Args:
        networks: the pair to train.
        config: λ and c_l; a layer is a kernel or matrix with the vectors that follow it.
        seed: not looked at.

    Raises:
        UsageError: `proximity_weights` are not as many numbers as the network has layers.
    """

    name = "proximity"
    summary = "Pulls each network towards the other's weights, upstream layers harder."
    paper = "Li et al. 2020, FedProx, arXiv:1812.06127"
    Config = ProximityConfig
    start = Start.SHARED
    candidates = {"proximity": (0.1, 1.0, 10.0)}

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        layers = layers_of(parameters_of(networks.target))
        weights = _layer_weights(config, len(layers))
        self._pulls = {
            name: config.proximity * weight for layer, weight in zip(layers, weights, strict=True) for name in layer
        }

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward) -> Terms:
        """Terms "target", "support" (nats per image) and "proximity", λ Σ_l c_l ‖θ_t,l - θ_s,l‖², of each network."""
        terms = super().training_step(target, support, backward=backward)
        mine, theirs = parameters_of(self.networks.target), parameters_of(self.networks.support)
        for first, second in ((mine, theirs), (theirs, mine)):
            pulled = [
                pull * (first[name] - second[name].detach()).square().sum()
                for name, pull in self._pulls.items()
                if pull
            ]
            if pulled:
                loss = torch.stack(pulled).sum()
                backward(loss)
                terms["proximity"] = loss.detach()
        return terms


def _layer_weights(config: ProximityConfig, layers: int) -> list[float]:
    """c_l for each of `layers` layers, from the input."""
    if not config.proximity_weights:
        return [config.proximity_decay**depth for depth in range(layers)]
    if len(config.proximity_weights) != layers:
        raise UsageError(
            f"--proximity-weights takes a number for each of the network's {layers} layers, "
            f"not {len(config.proximity_weights)}."
        )
    return list(config.proximity_weights)
