"""What the training loop asks of those it works with: who draws episodes, who measures, whose settings it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from metasum.config.sections import MonitorConfig, OptimisationConfig
from metasum.types import Batch, FewShotEpisode


class Sampler(Iterator[Sequence[Batch | FewShotEpisode]], Protocol):
    """What a step is given, for ever, from a state that can be saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class OnTheWay(Protocol):
    """Measures what is being trained, by its own lights."""

    def on_the_way(self, learner: Any, *, limit: int | None = None) -> Any:
        """Accuracies as a dataclass that `str` puts into words, on at most `limit` images of each dataset."""


class HarnessConfig(Protocol):
    """The settings that the loop reads."""

    @property
    def seed(self) -> int: ...

    @property
    def optimisation(self) -> OptimisationConfig: ...

    @property
    def monitor(self) -> MonitorConfig: ...
