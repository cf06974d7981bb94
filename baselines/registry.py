"""Every way of training by name: one dictionary to read.

A third package adds its own through the entry-point group `metasum.baselines` (a function without arguments that
calls `register`), a user through `register` in Python or in a `--plugin` file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metasum import merging
from metasum.config import (
    MetaConfig,
    MetaTransferConfig,
    ObjectiveConfig,
    ProximityConfig,
    RegularisationConfig,
    SlotsConfig,
    TrainConfig,
    TwoHeadConfig,
)
from metasum.errors import UsageError, unknown
from metasum.files import check_folder_name
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Learner
from metasum.merging.method import Method
from metasum.weights.storage import load_like

Factory = Callable[[MetaSum, TrainConfig], Learner]
"""From the two initialised networks and the run's settings to a learner."""


@dataclass(frozen=True)
class LearnerEntry:
    """A registered way of training."""

    factory: Factory
    summary: str
    source: str
    settings: tuple[str, ...] = ()
    """Names of the settings that not every learner reads."""
    preset: Mapping[str, Any] = field(default_factory=dict)
    """Settings that make it what it is, whatever else is asked for."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Its own defaults of settings that are left at everybody's."""
    endpoints: str | None = None
    """The learner whose finished networks it merges: a comparison does not train them twice."""
    merger: str | None = None
    """The merging method that it applies to them."""
    one_initialisation: bool = False
    """Whether it makes sense only where target and support start from the same weights."""
    two_initialisations: bool = False
    """Whether the support starts from weights of its own, drawn with the next seed unless another one is given."""
    meta_learnt: bool = False
    """Whether its networks start from an initialisation that is meta-learnt first, unless one is given."""
    numbered: str | None = None
    """Setting that must differ between networks that are to be added: the first has 0, the next 1."""
    in_pieces: bool = False
    """Whether all that it does to networks in training can be done to networks in pieces (`--fsdp`)."""
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Candidates for the settings that a comparison chooses on validation images; all combinations are tried."""


def _joint(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.learners.joint import JointLearner

    pool = [load_like(networks.target, path) for path in pool_files(config.objective.pool or "")]
    return JointLearner(networks, config.objective, config.regularisation, pool=pool)


def pool_files(pool: str) -> list[Path]:
    """The files that `--pool` names."""
    return [Path(word.strip()) for word in pool.split(",") if word.strip()]


def _independent(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.baselines.independent import IndependentLearner

    return IndependentLearner(networks)


def _proximity(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.baselines.proximity import ProximityLearner

    return ProximityLearner(networks, config.proximity)


def _two_head(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.baselines.two_head import TwoHeadLearner

    return TwoHeadLearner(networks, config.two_head)


def _multi_input(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.baselines.multi_input import MultiInputLearner

    return MultiInputLearner(networks)


def _meta_networks(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.baselines.meta_networks.pair import MetaNetworksLearner

    return MetaNetworksLearner(networks, seed=config.seed)


def _meta_transfer(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.baselines.meta_transfer.base_training import BaseTraining
    from metasum.baselines.meta_transfer.pair import MetaTransferLearner

    settings = config.meta_transfer
    pretraining = settings.pretraining_steps
    if pretraining is None:
        pretraining = 0 if config.network.init is not None else (config.optimisation.steps or 0) // 2
    base = BaseTraining(steps=settings.base_steps, learning_rate=settings.base_lr)
    return MetaTransferLearner(networks, pretraining_steps=pretraining, base=base)


def _slots(networks: MetaSum, config: TrainConfig) -> Learner:
    from metasum.learners.slots import SlotsLearner

    return SlotsLearner(networks, config.slots, quiet_weight=config.regularisation.quiet_weight or 0.0)


def _merger(method: type[Method]) -> LearnerEntry:
    """The learner that trains independently and merges so."""

    def factory(networks: MetaSum, config: TrainConfig) -> Learner:
        from metasum.baselines.merging import MergingLearner

        return MergingLearner(networks, method.picked(config.merging, seed=config.seed))

    return LearnerEntry(
        factory,
        method.summary,
        "metasum" if method.__module__.startswith("metasum.") else "Python",
        settings=_names(method.Config),
        endpoints="independent",
        merger=method.name,
        one_initialisation=method.needs_base,
        grid=method.candidates,
    )


def _merged(methods: Iterable[type[Method]]) -> dict[str, LearnerEntry]:
    """The learners of merging methods."""
    return {method.name: _merger(method) for method in methods if method.compared}


def _merged_two_inits(methods: Iterable[type[Method]]) -> dict[str, LearnerEntry]:
    """The same on networks from two initialisations."""
    return {
        f"{method.name}-two-inits": dataclasses.replace(
            _merger(method),
            summary=f"{method.summary.removesuffix('.')}, from two initialisations.",
            two_initialisations=True,
            endpoints="independent-two-inits",
        )
        for method in methods
        if method.compared and method.two_starts
    }


def _names(section: Any) -> tuple[str, ...]:
    return tuple(option.name for option in dataclasses.fields(section))


OBJECTIVE = (*(name for name in _names(ObjectiveConfig) if name != "pool"), "operator", "scaling", "backend")
JOINT = (*OBJECTIVE, "pool", *_names(RegularisationConfig))


def _alone(summary: str, *, preset: Mapping[str, Any] | None = None, **more: Any) -> LearnerEntry:
    """Joint MetaSum without its third term, with something else that may carry over to strangers."""
    settings = ("target_weight", "support_weight", "operator", "scaling", *_names(RegularisationConfig))
    return LearnerEntry(_joint, summary, "metasum", settings, {"sum_weight": 0.0, **(preset or {})}, **more)


LEARNERS: dict[str, LearnerEntry] = {
    "metasum": LearnerEntry(
        _joint, "Trains both networks together with the loss of their sum.", "metasum", JOINT, in_pieces=True
    ),
    "metasum-symmetric": LearnerEntry(
        _joint,
        "MetaSum whose sum is to do well on the support, too.",
        "metasum",
        JOINT,
        preset={"symmetric": True},
        in_pieces=True,
    ),
    "metasum-meta": LearnerEntry(
        _independent,
        "Trains each network alone, from an initialisation that is meta-learnt for sums of strangers.",
        "metasum",
        (*_names(MetaConfig), *OBJECTIVE),
        one_initialisation=True,
        meta_learnt=True,
        in_pieces=True,
    ),
    "slots": LearnerEntry(
        _slots,
        "Each network in channels of its own, and quiet on foreign images.",
        "metasum",
        (*_names(SlotsConfig), "quiet_weight", "operator"),
        defaults={"quiet_weight": 0.5},
        one_initialisation=True,
        numbered="slot",
        grid={"learning_rate": (1e-3, 2e-3, 4e-3)},  # thin networks want more than whole ones
    ),
    "quiet": _alone(
        "Trains each network alone, quiet on foreign images.",
        defaults={"quiet_weight": 0.5},
    ),
    "anchored": _alone(
        "Trains each network alone, pulled to the initialisation.",
        defaults={"anchor": 0.01},
        one_initialisation=True,
        in_pieces=True,
        grid={"anchor": (0.001, 0.01, 0.1)},
    ),
    "sharpness-aware": _alone(
        "Trains each network alone, in sharpness-aware steps.",
        defaults={"sharpness": 0.05},
        in_pieces=True,
        grid={"sharpness": (0.05, 0.2, 0.5)},
    ),
    "tangent": _alone(
        "Trains each network's tangent at the initialisation, alone: sums of weights are sums of functions.",
        preset={"tangent": True, "norm": "none"},
        one_initialisation=True,
        grid={"learning_rate": (5e-4, 2e-3)},
    ),
    "independent": LearnerEntry(
        _independent, "Trains each network alone: the plain sum.", "metasum", ("operator", "scaling"), in_pieces=True
    ),
    "proximity": LearnerEntry(
        _proximity,
        "Pulls each network towards the other's weights, upstream layers harder.",
        "metasum",
        (*_names(ProximityConfig), "operator", "scaling"),
        one_initialisation=True,
        grid={"proximity": (0.1, 1.0, 10.0)},
    ),
    "two-head": LearnerEntry(
        _two_head, "One trunk, a head for each dataset.", "metasum", _names(TwoHeadConfig), one_initialisation=True
    ),
    "multi-input": LearnerEntry(
        _multi_input, "One network for both datasets, head and all.", "metasum", one_initialisation=True
    ),
    "meta-networks": LearnerEntry(
        _meta_networks,
        "Slow weights for both, and fast ones for each that a meta learner writes; those are added.",
        "metasum",
        preset={"augmented": True},
        one_initialisation=True,
    ),
    "meta-transfer": LearnerEntry(
        _meta_transfer,
        "One trunk, trained and frozen, with scale and shift for each.",
        "metasum",
        (*_names(MetaTransferConfig), "operator"),
        one_initialisation=True,
        grid={"learning_rate": (5e-4, 2e-3, 8e-3)},
    ),
    **_merged(merging.methods().values()),
    "independent-two-inits": LearnerEntry(
        _independent,
        "The plain sum of networks from two initialisations.",
        "metasum",
        ("operator",),
        two_initialisations=True,
        in_pieces=True,
    ),
    **_merged_two_inits(merging.methods().values()),
}


def register(name: str, factory: Factory, *, summary: str = "", source: str = "Python") -> None:
    """Adds a way of training under `name`.

    Args:
        name: as `--learner` will take it.
        factory: makes a `Learner` from the two networks and the settings.
        summary: one line for `metasum learners`.
        source: where it comes from, for the same list.

    Raises:
        UsageError: the name is taken, or cannot be part of a folder's.
    """
    check_folder_name("a learner called", name)
    if name in LEARNERS:
        raise UsageError(f"there is a learner {name!r} already (from {LEARNERS[name].source}).")
    LEARNERS[name] = LearnerEntry(factory, summary, source, settings=("operator", "backend"))


def register_method(method: type[Method]) -> None:
    """Adds a merging method, for `metasum merge` and `metasum sum`, and the learner that trains and merges so.

    Raises:
        UsageError: the name is taken, or cannot be part of a folder's; or a setting contradicts another method's.
    """
    for name in (entries := {**_merged([method]), **_merged_two_inits([method])}):
        if name in LEARNERS:
            raise UsageError(f"there is a learner {name!r} already (from {LEARNERS[name].source}).")
    merging.register(method)
    LEARNERS.update(entries)


def learner_named(name: str) -> LearnerEntry:
    """The entry of `name`; raises UsageError, with the nearest name, where there is none."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS, more="`metasum learners` lists them.")
    return LEARNERS[name]
