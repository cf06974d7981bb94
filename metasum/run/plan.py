"""From a request and the data to a plan, in which nothing is open any more."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from metasum.baselines.registry import LEARNERS, learner_named
from metasum.config import Checked, flag_of, options_of
from metasum.config.sections import (
    DataConfig,
    EvaluationConfig,
    MonitorConfig,
    NetworkConfig,
    OptimisationConfig,
    ProcessesConfig,
    TrackingConfig,
)
from metasum.errors import CheckpointError, UsageError
from metasum.learners.learner import Learner, Start
from metasum.networks import functions
from metasum.networks.build import architecture, check_network_name, read_architecture
from metasum.networks.fitting import check_network_settings
from metasum.run.request import COMMON, SECTIONS, Request
from metasum.tasks.images import check_seen
from metasum.tasks.registry import pair_of
from metasum.types import Dataset, Sides


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run depends on. `own` are the settings of its learner."""

    learner: str
    seed: int
    own: Any
    data: DataConfig
    network: NetworkConfig
    evaluation: EvaluationConfig
    optimisation: OptimisationConfig
    processes: ProcessesConfig
    monitor: MonitorConfig
    tracking: TrackingConfig

    @property
    def learner_class(self) -> type[Learner]:
        return learner_named(self.learner)

    @property
    def architecture(self) -> str:
        """What weights files of the run say about themselves; see `metasum.networks.build.architecture`."""
        return architecture(self.network, self.data.in_channels)

    def having(self, **values: Any) -> Plan:
        """The same with some settings changed, by their names; raises UsageError as their sections do."""
        sections = {name: getattr(self, name) for name in (*SECTIONS, "own")}
        changed = {}
        for name, section in sections.items():
            own = {leaf.name for leaf in options_of(type(section))} & set(values)
            if own:
                changed[name] = dataclasses.replace(section, **{key: values[key] for key in own})
        rest = {name: values[name] for name in ("learner", "seed") if name in values}
        return dataclasses.replace(self, **changed, **rest)

    def flat(self) -> dict[str, Any]:
        """Every setting by its name."""
        sections = (vars(getattr(self, name)) for name in (*SECTIONS, "own"))
        values = {name: value for section in sections for name, value in section.items()}
        return {"learner": self.learner, "seed": self.seed, **values}

    def to_json(self) -> dict[str, Any]:
        """Plain nested dictionaries, as config.json holds them under "settings"."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, any_learner: bool = False) -> Plan:
        """The inverse of `to_json`.

        Args:
            values: plain nested dictionaries.
            any_learner: where the learner is not registered, keep its own settings as they are, as attributes of
                `own`. Such a plan can be read, but not run.

        Raises:
            CheckpointError: a section or setting is missing or unknown, or a value is not what it should be.
        """
        try:
            unknown = set(values) - {"learner", "seed", "own", *SECTIONS}
            if unknown:
                raise KeyError(sorted(unknown)[0])
            sections: dict[str, Any] = {name: kind(**values[name]) for name, kind in SECTIONS.items()}
            foreign = any_learner and values["learner"] not in LEARNERS
            own_settings = SimpleNamespace if foreign else learner_named(values["learner"]).Config
            own = own_settings(**values["own"])
            return cls(learner=values["learner"], seed=values["seed"], own=own, **sections)
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise CheckpointError(f"these are not the settings of a metasum run: {error}") from error


def resolve(request: Request, datasets: Sides[Dataset]) -> Plan:
    """The plan of a run: what was given, the learner's own, the pair's recipe, and defaults for the rest.

    Raises:
        UsageError: settings that the learner does not read, or that do not go together.
        DatasetError: images that are larger than --image-size, or have other channels than --in-channels.
    """
    name = request["learner"]
    learner = learner_named(name)
    check_read(request, learner)
    check_network_name(request["network"])
    classes = max(data.num_classes for data in datasets)
    recipe = learner.suited(_recipe(request), request.given)
    values = fill(learner, {**recipe, "num_classes": classes, **request.given, **learner.preset})
    if values["num_classes"] < classes:
        raise UsageError(f"--num-classes {values['num_classes']} is too few: the datasets have {classes} classes.")
    plan = planned(learner, values, given=frozenset(request.given))
    for data in datasets:
        check_seen(data.name, data.train.images, in_channels=plan.data.in_channels, image_size=plan.network.image_size)
    check_start(plan)
    check_heads(plan)
    for further in learner.further_data(plan.own):
        if further in (plan.data.target, plan.data.support):
            raise UsageError(f"{further!r} is one of the pair's own datasets; it cannot be further data, too.")
    if learner.endpoints is not None and plan.evaluation.statistics not in (None, "recalibrate", "own"):
        raise UsageError(
            f"--statistics {plan.evaluation.statistics}: merged networks have recalibrated ones, or each its own."
        )
    return plan


def _recipe(request: Request) -> dict[str, Any]:
    """The pair's recipe; networks that start from a file of metasum's are as wide as that one."""
    recipe = dataclasses.asdict(pair_of(request["target"], request["support"]).recipe)
    init = request.given.get("init")
    if init is not None:
        with contextlib.suppress(CheckpointError):  # whatever is wrong with it is said where it is read
            recipe["width"] = read_architecture(Path(init))["width"]
    return recipe


def check_read(request: Request, learner: type[Learner]) -> None:
    """Raises UsageError for a setting that the learner does not read, or that it sets to something else itself."""
    own = {leaf.name for leaf in options_of(learner.Config)}
    for name, value in request.given.items():
        if name not in COMMON and name not in own:
            raise UsageError(f"{flag_of(name)} says nothing to learner {learner.name!r}.")
        if name in learner.preset and value != learner.preset[name]:
            raise UsageError(f"{flag_of(name)} is {learner.preset[name]} for learner {learner.name!r}.")


def fill(learner: type[Learner], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what follows from others, and with the defaults that do not stand in the fields."""
    leaves = (*COMMON.values(), *options_of(learner.Config))
    defaults = {leaf.name: leaf.default for leaf in leaves if not leaf.required}
    filled = {**defaults, **values}
    if learner.start is Start.OWN and filled["support_init_seed"] is None:
        values = {**values, "support_init_seed": filled["init_seed"] + 1}
    return {**defaults, **learner.fill(filled), **values}


def planned(learner: type[Learner], values: Mapping[str, Any], *, given: frozenset[str] = frozenset()) -> Plan:
    """A plan from settings by name: each goes to the section that has it, and must find one.

    Args:
        learner: whose settings they are.
        values: all that have no default, and any others; not the learner's name.
        given: those that somebody chose; what the others leave without a meaning is refused.
    """
    if functions.is_function(str(values.get("network", ""))):
        check_network_settings(values["network"], given)
        values = {**values, "network": functions.named(values["network"])}

    def section(kind: type[Checked]) -> Any:
        found = kind(**{leaf.name: values[leaf.name] for leaf in options_of(kind) if leaf.name in values})
        found.check_given(given)
        return found

    sections = {name: section(kind) for name, kind in SECTIONS.items()}
    return Plan(learner=learner.name, seed=values["seed"], own=section(learner.Config), **sections)


def check_heads(plan: Plan) -> None:
    """Raises UsageError where the learner's sum cannot be measured with each network's own head."""
    reason = plan.learner_class.against_own_heads() if plan.evaluation.heads == "own" else None
    if reason is not None:
        raise UsageError(f"--heads own: learner {plan.learner!r} {reason}.")


def check_start(plan: Plan) -> None:
    """Raises UsageError where the support's initialisation is not one that the learner can start from."""
    own, shared = plan.network.support_init_seed, plan.network.init_seed
    if own == shared and plan.network.init is None:
        raise UsageError(f"--support-init-seed {own} is the target's own; another one makes another start.")
    if own is not None and plan.learner_class.start in (Start.SHARED, Start.LEARNT):
        raise UsageError(f"--support-init-seed: learner {plan.learner!r} needs one initialisation for both networks.")
