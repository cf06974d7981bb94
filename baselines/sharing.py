"""What the baselines have in common that share weights between the datasets: there is nothing left to add."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from metasum.learners.networks import MetaSum
from metasum.learners.protocol import PairLearner
from metasum.types import Sides
from metasum.weights.parameters import buffers_of
from metasum.weights.statistics import settle_statistics


class SharingLearner(PairLearner):
    """After "the sum" is the shared network itself, with its statistics settled as everybody's are."""

    @property
    def operators(self) -> tuple[str, ...]:
        return ("shared",)

    def summed_networks(
        self, images: Sides[Sequence[Tensor]], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> Sides[nn.Module]:
        own = Sides(self.networks.target, self.networks.support)
        sources = {name: buffers_of(network) for name, network in own._asdict().items()}
        target, support = (
            settle_statistics(copy.deepcopy(network), statistics, batches, sources)
            for network, batches in zip(own, images, strict=True)
        )
        return Sides(target, support)


def share_parameters(networks: MetaSum, names: set[str]) -> None:
    """Makes the named parameters of the support the target's very own, in place."""
    support = dict(networks.support.named_modules())
    for path, module in networks.target.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if f"{path}.{name}".lstrip(".") in names:
                setattr(support[path], name, parameter)
