"""What the harness asks of a way of training, and what most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from metasum.learners.networks import MetaSum
from metasum.types import Batch

Backward: TypeAlias = Callable[[Tensor], None]
"""Sends a scalar loss's gradient into the parameters' `.grad`, adding to what is there."""


class Learner(Protocol):
    """A way of training a target and a support network of one architecture.

    A learner owns no loop and no optimiser: the harness calls `training_step`, then updates `parameters()`. It
    answers three questions with networks in eval mode, from images `[N, C, 32, 32]` to logits `[N, classes]`.
    """

    @property
    def trains_sum(self) -> bool:
        """Whether training runs the summed network, which then has learned statistics of its own."""
        ...

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = ...) -> dict[str, Tensor]:
        """Adds one step's gradients through `backward` and returns its loss terms by name (scalars, detached)."""
        ...

    def target_network(self) -> nn.Module:
        """The target network alone."""
        ...

    def support_network(self) -> nn.Module:
        """The support network alone."""
        ...

    def summed_network(
        self, calibration: Iterable[Tensor], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> nn.Module:
        """The sum, as `MetaSum.summed_network` describes it."""
        ...

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """What the optimiser moves; gradients are clipped group by group."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class PairLearner(nn.Module, ABC):
    """A learner that trains the two networks of a `MetaSum`; what is left to say is its training step."""

    def __init__(self, networks: MetaSum) -> None:
        super().__init__()
        self.networks = networks

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

    def summed_network(
        self, calibration: Iterable[Tensor], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> nn.Module:
        return self.networks.summed_network(calibration, operator=operator, statistics=statistics)

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.networks.target.parameters()), list(self.networks.support.parameters())]
