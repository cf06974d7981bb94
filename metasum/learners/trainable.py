"""What the harness trains, and what a run measures and saves, without saying how a learner is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from metasum.types import Buffers, Sides

Terms: TypeAlias = dict[str, Tensor]
"""A step's losses by name: scalars, detached."""

Backward: TypeAlias = Callable[[Tensor], None]
"""Sends a scalar loss's gradient into the parameters' `.grad`, adding to what is there."""


class Trainable(Protocol):
    """What the harness trains. It owns no loop and no optimiser: `training_step`, then `parameters()` are updated."""

    @property
    def training_step(self) -> Callable[..., Terms]:
        """Takes batches, the target's, the support's and any further partners', and the keyword `backward`.

        Adds one step's gradients through `backward` and returns its loss terms by name (scalars, detached).
        """
        ...

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """What the optimiser moves; gradients are clipped group by group."""
        ...

    def before_measuring(self) -> None:
        """Called, in all processes together, before networks are measured or saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def modules(self) -> Iterator[nn.Module]: ...


class TrainedLearner(Trainable, Protocol):
    """What a run trains, measures and saves: a `Learner`, or something that stands for one."""

    @property
    def operators(self) -> tuple[str, ...]: ...

    @property
    def trains_sum(self) -> bool: ...

    def target_network(self) -> nn.Module: ...

    def support_network(self) -> nn.Module: ...

    def compose(self, images: Sides[Sequence[Tensor]], *, operator: str | None = None) -> Sides[nn.Module]: ...

    def compose_trunk(
        self, images: Sides[Sequence[Tensor]], head: frozenset[str], *, operator: str | None = None
    ) -> Sides[nn.Module]: ...

    def sum_statistics(self) -> Buffers | None: ...

    def own_statistics(self, alone: Sides[nn.Module], *, operator: str | None = None) -> Buffers | None: ...
