"""What the baselines have in common that share weights between the datasets: there is nothing left to add."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from metasum.config import Checked, NoSettings
from metasum.learners.learner import Learner, Start
from metasum.types import Sides


class SharingLearner(Learner):
    """After "the sum" is the shared network itself, with its statistics settled as everybody's are."""

    Config: ClassVar[type[Checked]] = NoSettings
    start = Start.SHARED
    no_merge = "joint training"

    @property
    def operators(self) -> tuple[str, ...]:
        return ("shared",)

    def compose(self, images: Sides[Sequence[Tensor]], *, operator: str | None = None) -> Sides[nn.Module]:
        return Sides(*(copy.deepcopy(network) for network in (self.networks.target, self.networks.support)))

    def compose_trunk(
        self, images: Sides[Sequence[Tensor]], head: frozenset[str], *, operator: str | None = None
    ) -> Sides[nn.Module]:
        """The same, where each network has a head of its own all along."""
        return self.compose(images, operator=operator)


def share_parameters(network: nn.Module, other: nn.Module, names: set[str]) -> None:
    """Makes the named parameters of a network the very own of another one of the same architecture, in place."""
    theirs = dict(other.named_modules())
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if f"{path}.{name}".lstrip(".") in names:
                setattr(theirs[path], name, parameter)
