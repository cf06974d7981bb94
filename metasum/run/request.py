"""What somebody asked for: the settings that were given, by name, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from metasum.arguments import check_fields
from metasum.baselines.registry import LEARNERS, known_options, learner_named
from metasum.config import Checked, Option, option, options_of
from metasum.config.sections import (
    DataConfig,
    EvaluationConfig,
    MonitorConfig,
    NetworkConfig,
    OptimisationConfig,
    ProcessesConfig,
    TrackingConfig,
)
from metasum.errors import unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Which run of several."""

    learner: str = option("metasum", "Way of training; `metasum learners` lists them.")
    seed: int = option(
        0, "Seed of batches, augmentation and dropout (not of the initialisation).", minimum=0, below=2**63
    )


SECTIONS: dict[str, type[Checked]] = {
    "data": DataConfig,
    "network": NetworkConfig,
    "evaluation": EvaluationConfig,
    "optimisation": OptimisationConfig,
    "processes": ProcessesConfig,
    "monitor": MonitorConfig,
    "tracking": TrackingConfig,
}
"""The settings of every run; a learner's own come as one more section, "own"."""

COMMON: dict[str, Option] = {
    leaf.name: leaf for section in (RunConfig, *SECTIONS.values()) for leaf in options_of(section)
}


def run_settings() -> Iterator[tuple[str, type[Any]]]:
    """Every dataclass of a run's settings, with the learner that reads it ("" for all): what flags are made of."""
    yield "", RunConfig
    for section in SECTIONS.values():
        yield "", section
    for name, learner in LEARNERS.items():
        yield name, learner.Config


@dataclasses.dataclass(frozen=True)
class Request:
    """Settings that were given, by the names of the command line's flags. The rest is decided when a run is planned.

    `settings` makes one.

    Example:
        >>> request = settings(target="mnist", support="cifar10", width=0.25)
        >>> result = train(request, download=True)

    Raises:
        UsageError: a name that no setting has, or a value that its setting does not take.
    """

    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        learner = self.given.get("learner", COMMON["learner"].default)
        object.__setattr__(
            self, "given", {name: _leaf(name, learner).checked(value) for name, value in self.given.items()}
        )

    def __getitem__(self, name: str) -> Any:
        """What was given, or the default of a setting that every run has; KeyError where it has none."""
        if name in self.given:
            return self.given[name]
        leaf = COMMON[name]
        if leaf.required:
            raise KeyError(name)
        return leaf.default

    def having(self, **values: Any) -> Request:
        """The same with some settings given, or given otherwise."""
        return Request({**self.given, **values})

    def without(self, *names: str) -> Request:
        """The same with these settings left open."""
        return Request({name: value for name, value in self.given.items() if name not in names})

    def for_learner(self, name: str, **values: Any) -> Request:
        """The same for one of several learners: less what only others read, or what it sets itself; `values` on top."""
        learner = learner_named(name)
        own = {leaf.name for leaf in options_of(learner.Config)}
        kept = {
            setting: value
            for setting, value in self.given.items()
            if (setting in COMMON or setting in own) and setting not in learner.preset
        }
        return Request({**kept, **values, "learner": name})


def settings(**values: Any) -> Request:
    """The settings of a run by their names, those of the command line's flags; the rest is left open.

    Example:
        >>> request = settings(target="mnist", support="cifar10", width=0.25, symmetric=True)

    Raises:
        UsageError: a name that no setting has, or a value that its setting does not take.
    """
    return Request(values)


def _leaf(name: str, learner: str) -> Option:
    """The setting called so: everybody's, the learner's own, or another learner's."""
    if name in COMMON:
        return COMMON[name]
    found = {leaf.name: leaf for leaf in options_of(LEARNERS[learner].Config)} if learner in LEARNERS else {}
    leaf = found.get(name) or next(known_options(name), None)
    if leaf is None:
        every = {leaf.name for _, section in run_settings() for leaf in options_of(section)}
        raise unknown("setting", name, every)
    return leaf
