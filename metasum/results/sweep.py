"""A sweep's result: what every trial found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from metasum.results.surroundings import Settings
from metasum.results.upgrade import Plain
from metasum.results.value import Result, Value

STATES = {"complete": "finished", "pruned": "ended early", "fail": "failed", "running": "running"}
"""What becomes of trials, and how it is called."""
BEST = 10


@dataclass(frozen=True)
class Metric(Value):
    """What is looked for."""

    name: str
    goal: str
    """"maximize" or "minimize"."""

    @property
    def sign(self) -> int:
        """A factor that makes lower values the better ones."""
        return -1 if self.goal == "maximize" else 1


@dataclass(frozen=True)
class Trial(Value):
    """One place of a sweep; its JSON has the score under the metric's name."""

    place: int
    """From 0."""
    trial: int
    state: str
    """See `STATES`."""
    values: Settings
    score: float | None
    """What the metric is; None: it did not come to its end, or there is no metric."""
    trial_seconds: float | None
    numbers: Mapping[str, int | float]
    """All that its run measured."""
    run: str | None
    error: str | None


@dataclass(frozen=True)
class SweepResult(Result):
    """What results.json of `metasum sweep` holds."""

    kind: ClassVar[str] = "sweep"

    name: str
    question: str
    command: tuple[str, ...]
    method: str
    metric: Metric | None
    arguments: tuple[str, ...]
    count: int
    """Trials in all."""
    lost: int
    """Begun by processes that died, and run again."""
    trials: tuple[Trial, ...]
    best: tuple[int, ...]
    """Places of finished trials, the best first; () without a metric."""
    importances: Mapping[str, float]
    """By parameter, its share of the metric's variance."""
    sweep: str
    """The folder."""

    def plain(self) -> dict[str, Any]:
        name = self.metric.name if self.metric else "metric"
        return super().plain() | {"trials": [_renamed(trial.plain(), {"score": name}) for trial in self.trials]}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        metric = plain.get("metric")
        name = metric.get("name", "metric") if isinstance(metric, Mapping) else "metric"
        if not isinstance(trials := plain.get("trials"), list):
            return plain
        return {**plain, "trials": [_renamed(t, {name: "score"}) if isinstance(t, dict) else t for t in trials]}

    def ended(self, state: str) -> list[Trial]:
        """The trials in a state."""
        return [trial for trial in self.trials if trial.state == state]

    def best_trials(self) -> list[Trial]:
        """The best finished trials, at most ten; all of a sweep without a metric."""
        by_place = {trial.place: trial for trial in self.trials}
        return [by_place[place] for place in self.best[:BEST]] or self.ended("complete")

    def varied(self) -> list[str]:
        """Parameters that are not the same in all trials."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.values)
        return [name for name in names if len({repr(trial.values.get(name)) for trial in self.trials}) > 1]


def _renamed(plain: Plain, names: Mapping[str, str]) -> Plain:
    return {names.get(name, name): found for name, found in plain.items()}
