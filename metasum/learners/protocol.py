"""What the harness asks of a way of training, and what most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from metasum.learners.networks import MetaSum
from metasum.types import Batch, Parameters, Sides
from metasum.weights.composition import OPERATORS, operator_named
from metasum.weights.parameters import buffers_of, parameters_of, with_parameters
from metasum.weights.statistics import settle_statistics

Backward: TypeAlias = Callable[[Tensor], None]
"""Sends a scalar loss's gradient into the parameters' `.grad`, adding to what is there."""


class Trainable(Protocol):
    """What the harness trains. It owns no loop and no optimiser: `training_step`, then `parameters()` are updated."""

    @property
    def training_step(self) -> Callable[..., dict[str, Tensor]]:
        """Takes batches, the target's, the support's and any further partners', and the keyword `backward`.

        Adds one step's gradients through `backward` and returns its loss terms by name (scalars, detached).
        """
        ...

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """What the optimiser moves; gradients are clipped group by group."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...


class Learner(Trainable, Protocol):
    """A way of training a target and a support network of one architecture.

    A learner owns no loop and no optimiser: the harness calls `training_step`, then updates `parameters()`. It
    answers three questions with networks in eval mode, from images `[N, C, 32, 32]` to logits `[N, classes]`.
    """

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the ways in which it can make the sum out of what it trained; the first unless told otherwise."""
        ...

    @property
    def trains_sum(self) -> bool:
        """Whether training runs the summed network, which then has learned statistics of its own."""
        ...

    def target_network(self) -> nn.Module:
        """The target network alone."""
        ...

    def support_network(self) -> nn.Module:
        """The support network alone."""
        ...

    def summed_networks(
        self, images: Sides[Sequence[Tensor]], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> Sides[nn.Module]:
        """The sum as it is measured on the target's images, and as it is measured on the support's.

        Args:
            images: unlabelled training images of each dataset, batches `[N, C, H, W]`.
            operator: one of `operators`.
            statistics: as `MetaSum.summed_network` describes it.
        """
        ...


class PairLearner(nn.Module, ABC):
    """A learner that trains the two networks of a `MetaSum`; what is left to say is its training step."""

    def __init__(self, networks: MetaSum) -> None:
        super().__init__()
        self.networks = networks

    @property
    def operators(self) -> tuple[str, ...]:
        return (self.networks.operator, *(name for name in OPERATORS if name != self.networks.operator))

    @property
    def trains_sum(self) -> bool:
        return False

    @abstractmethod
    def training_step(
        self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward
    ) -> dict[str, Tensor]:
        """See `Learner.training_step`."""

    def target_network(self) -> nn.Module:
        return self.networks.target.eval()

    def support_network(self) -> nn.Module:
        return self.networks.support.eval()

    def summed_networks(
        self, images: Sides[Sequence[Tensor]], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> Sides[nn.Module]:
        target, support = (
            self.networks.summed_network(batches, operator=operator, statistics=statistics) for batches in images
        )
        return Sides(target, support)

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        own = list(self.networks.target.parameters())
        if self.networks.coefficients is not None:
            own.append(self.networks.coefficients)
        shared = {id(parameter) for parameter in own}
        return [own, [p for p in self.networks.support.parameters() if id(p) not in shared]]


class WrittenLearner(PairLearner):
    """A learner whose target and support network are written from what it trains; those are what it adds."""

    def summed_networks(
        self, images: Sides[Sequence[Tensor]], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> Sides[nn.Module]:
        own = Sides(self.target_network(), self.support_network())
        composed = operator_named(operator or self.networks.operator)([parameters_of(network) for network in own])
        return settled(own, composed, images, statistics)


def settled(
    own: Sides[nn.Module], composed: Parameters, images: Sides[Sequence[Tensor]], statistics: str
) -> Sides[nn.Module]:
    """The network with parameters `composed` as each side measures it.

    Args:
        own: target and support network, which lend structure and, where asked for, statistics.
        composed: the sum's parameters.
        images: unlabelled training images of each dataset.
        statistics: "recalibrate", "target" or "support".
    """
    sources = {side: buffers_of(network) for side, network in own._asdict().items()}
    target, support = (
        settle_statistics(with_parameters(own.target, composed), statistics, batches, sources) for batches in images
    )
    return Sides(target, support)
