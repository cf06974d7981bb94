"""Every setting of a run in one object, by section and by flat name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from metasum.config.learners import (
    MergingConfig,
    MetaConfig,
    MetaTransferConfig,
    ObjectiveConfig,
    ProximityConfig,
    RegularisationConfig,
    SlotsConfig,
    TwoHeadConfig,
)
from metasum.config.networks import DataConfig, NetworkConfig, SumConfig
from metasum.config.training import MonitorConfig, OptimisationConfig, ProcessesConfig, TrackingConfig
from metasum.errors import CheckpointError, unknown
from metasum.settings import Checked, option, options_of


@dataclasses.dataclass(frozen=True)
class TrainConfig(Checked):
    """One run. `TrainConfig()` is the embedded pair; `settings` makes others by flat names.

    Raises:
        UsageError: a value is of the wrong type, outside its range or not among its choices.
    """

    learner: str = option("metasum", "Way of training; `metasum learners` lists them.")
    seed: int = option(
        0, "Seed of batches, augmentation and dropout (not of the initialisation).", minimum=0, below=2**63
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    sum: SumConfig = dataclasses.field(default_factory=SumConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    regularisation: RegularisationConfig = dataclasses.field(default_factory=RegularisationConfig)
    proximity: ProximityConfig = dataclasses.field(default_factory=ProximityConfig)
    two_head: TwoHeadConfig = dataclasses.field(default_factory=TwoHeadConfig)
    slots: SlotsConfig = dataclasses.field(default_factory=SlotsConfig)
    meta: MetaConfig = dataclasses.field(default_factory=MetaConfig)
    meta_transfer: MetaTransferConfig = dataclasses.field(default_factory=MetaTransferConfig)
    merging: MergingConfig = dataclasses.field(default_factory=MergingConfig)
    optimisation: OptimisationConfig = dataclasses.field(default_factory=OptimisationConfig)
    processes: ProcessesConfig = dataclasses.field(default_factory=ProcessesConfig)
    monitor: MonitorConfig = dataclasses.field(default_factory=MonitorConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)


SECTIONS: dict[str, Any] = {
    name: hint for name, hint in get_type_hints(TrainConfig).items() if dataclasses.is_dataclass(hint)
}


def settings(**values: Any) -> TrainConfig:
    """The settings of a run by their flat names, those of the command line's flags; the rest keep their defaults.

    Example:
        >>> config = settings(target="mnist", support="cifar10", width=0.25, symmetric=True)

    Raises:
        UsageError: a name that no setting has, or a value that its setting does not take.
    """
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    own: dict[str, Any] = {}
    places = {leaf.name: leaf.path[:-1] for leaf in options_of(TrainConfig)}
    for name, value in values.items():
        if name not in places:
            raise unknown("setting", name, places)
        place = sections[places[name][0]] if places[name] else own
        place[name] = value
    return TrainConfig(**own, **{name: SECTIONS[name](**given) for name, given in sections.items()})


def flat(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its flat name: what `settings` takes."""
    return {leaf.name: _read(config, leaf.path) for leaf in options_of(TrainConfig)}


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    """The same settings with some changed, by their flat names; raises UsageError as `settings` does."""
    return settings(**{**flat(config), **values})


def _read(config: Any, path: tuple[str, ...]) -> Any:
    return _read(getattr(config, path[0]), path[1:]) if path else config


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The settings as plain nested dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`; a section that was not there yet when they were written is at its defaults.

    Raises:
        CheckpointError: a setting is unknown, or these are no settings at all.
    """
    try:
        sections = {name: section(**values.get(name, {})) for name, section in SECTIONS.items()}
        return TrainConfig(learner=values["learner"], seed=values["seed"], **sections)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"these are not the settings of a metasum run: {error}.") from error
