"""Proximity: two networks from one initialisation, each pulled towards the other's weights, upstream layers harder.

The pull is federated learning's proximal term (Li et al. 2020, FedProx, arXiv:1812.06127, eq. 2), towards the partner
where FedProx pulls towards the server, and layer by layer. With no pull it is independent training; with an ever
stronger one on the trunk and none on the head the two trunks become one: the two-head network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metasum.baselines.independent import independent_step
from metasum.config import ProximityConfig
from metasum.errors import UsageError
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Backward, PairLearner
from metasum.types import Batch
from metasum.weights.parameters import layers_of, parameters_of


class ProximityLearner(PairLearner):
    """L_t = CE_t + λ Σ_l c_l ‖θ_t,l - sg(θ_s,l)‖², and L_s its mirror image; sg: held constant.

    Args:
        networks: the pair to train.
        config: λ and c_l; a layer is a kernel or matrix with the vectors that follow it.

    Raises:
        UsageError: `proximity_weights` are not as many numbers of at least 0 as the network has layers.
    """

    def __init__(self, networks: MetaSum, config: ProximityConfig) -> None:
        super().__init__(networks)
        layers = layers_of(parameters_of(networks.target))
        weights = _layer_weights(config, len(layers))
        self._pulls = {
            name: config.proximity * weight for layer, weight in zip(layers, weights, strict=True) for name in layer
        }

    def training_step(
        self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward
    ) -> dict[str, Tensor]:
        """Terms "target", "support" (nats per image) and "proximity", λ Σ_l c_l ‖θ_t,l - θ_s,l‖², of each network."""
        terms = independent_step(self.networks, target, support, backward)
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
    if config.proximity_weights is None:
        return [config.proximity_decay**depth for depth in range(layers)]
    try:
        weights = [float(word) for word in config.proximity_weights.split(",")]
    except ValueError as error:
        raise UsageError(f"--proximity-weights takes numbers separated by commas: {error}.") from error
    if len(weights) != layers or not all(0 <= weight < float("inf") for weight in weights):
        raise UsageError(
            f"--proximity-weights takes a number of at least 0 for each of the network's {layers} layers, "
            f"not {config.proximity_weights!r}."
        )
    return weights
