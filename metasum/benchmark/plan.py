"""From the settings that were given to what is measured; what nothing would heed is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metasum.baselines.registry import LEARNERS, learner_named
from metasum.benchmark.config import READ, BenchmarkConfig
from metasum.benchmark.joint_steps import JointSteps
from metasum.benchmark.learner_steps import LearnerSteps, reads_backend, run_plan
from metasum.benchmark.meta_steps import MetaSteps
from metasum.config import flag_of, options_of
from metasum.errors import UsageError
from metasum.learners.joint import JointLearner
from metasum.learners.learner import Learner, Start
from metasum.learners.meta import MetaLearntLearner
from metasum.run.plan import Plan
from metasum.run.request import Request

OWN = {leaf.name for leaf in options_of(BenchmarkConfig)}

STEPS: dict[type[Learner], type[LearnerSteps]] = {JointLearner: JointSteps, MetaLearntLearner: MetaSteps}
"""How a learner is timed, where there is more to it than its training step.

Of a class that derives from one of these only the training step is timed.
"""

HEEDED_BY_SOME = frozenset({"backends", "usual_shapes", "networks", "compile"})
"""The benchmark's settings that not every learner's step heeds."""


def steps_of(learner: type[Learner]) -> type[LearnerSteps]:
    """How the learner's step is timed."""
    return STEPS.get(learner, LearnerSteps)


def timeable() -> Iterator[type[Learner]]:
    """Every learner with a training step of its own; the others train as the one does whose networks they merge."""
    return (learner for learner in LEARNERS.values() if learner.endpoints is None)


@dataclass(frozen=True)
class TimedSteps:
    """A learner whose step is timed."""

    plan: Plan
    given: frozenset[str]
    """Those of its own settings that somebody chose."""

    @property
    def kind(self) -> type[LearnerSteps]:
        """How it is timed."""
        return steps_of(self.plan.learner_class)


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is measured. `timed` is empty where steps are not."""

    config: BenchmarkConfig
    timed: tuple[TimedSteps, ...]


def plan_benchmark(given: Mapping[str, Any]) -> BenchmarkPlan:
    """What these settings ask for.

    Args:
        given: the benchmark's settings and those of the learners that are timed, by their names; a name that both
            have is the benchmark's.

    Raises:
        UsageError: an unknown learner, setting or value; or a setting that says nothing to what is measured.
    """
    config = BenchmarkConfig(**{name: value for name, value in given.items() if name in OWN})
    learners = _learners(config.learner)
    own = Request({name: value for name, value in given.items() if name not in OWN}).given
    _check_measurements(config, given)
    if "step" not in config.measurements():
        return BenchmarkPlan(config, ())
    _check_learners(config, given, learners)
    timed = []
    for learner in learners:
        mine = {name: value for name, value in own.items() if _reads(learner, name)}
        steps_of(learner).check(config.settings(), mine)
        timed.append(TimedSteps(run_plan(learner.name, mine), frozenset(mine)))
    every = [one.kind.has_usual(setting, one.given) for one in timed for setting in config.settings()]
    if given.get("usual_shapes") and not any(every):
        raise UsageError(
            "--usual-shapes: there are none for what is asked here; they are of two networks, without --compile, and "
            "with the learner's settings at their defaults."
        )
    return BenchmarkPlan(config, tuple(timed))


def _learners(names: tuple[str, ...]) -> list[type[Learner]]:
    """The learners called so, each once; raises UsageError for one that has no training step of its own."""
    if "all" in names:
        return [learner for learner in timeable() if learner.start is not Start.OWN]
    found = [learner_named(name) for name in dict.fromkeys(names)]
    for learner in found:
        if learner.endpoints is not None:
            raise UsageError(f"learner {learner.name!r} trains as {learner.endpoints!r} does; time that one.")
    return found


def _check_measurements(config: BenchmarkConfig, given: Collection[str]) -> None:
    """Raises UsageError for a setting that says nothing to any measurement, or would be untrue of one of them."""
    measured = config.measurements()
    for name in given:
        readers = [m for m in READ if name in READ[m]] if name in OWN else ["step"]
        deaf = [m for m in measured if m not in readers]
        if deaf and _unusual(config, name):
            raise UsageError(f"{flag_of(name)} says nothing to --measure {deaf[0]}.")
        if len(deaf) == len(measured):
            raise UsageError(f"{_flag(config, name)} is for --measure {_listed(readers)}.")
    if _unusual(config, "compile") and "torch" not in config.backends:
        raise UsageError("--compile is for backend torch, which --backends leaves out.")


def _check_learners(config: BenchmarkConfig, given: Collection[str], learners: list[type[Learner]]) -> None:
    """Raises UsageError for a setting that says nothing to any learner, or would be untrue of one of them."""
    every, others = list(timeable()), [m for m in config.measurements() if m != "step"]
    for name in given:
        if name in OWN and name not in HEEDED_BY_SOME:
            continue
        readers = [learner for learner in every if _reads(learner, name)]
        deaf = [learner for learner in learners if learner not in readers]
        unheard = len(deaf) == len(learners) and not any(name in READ[m] for m in others)
        if unheard or (deaf and _unusual(config, name)):
            only = f", only to {_listed(sorted(reader.name for reader in readers))}" if readers else ""
            raise UsageError(f"{_flag(config, name)} says nothing to learner {deaf[0].name!r}{only}.")


def _reads(learner: type[Learner], name: str) -> bool:
    """Whether the learner's step heeds the setting, the benchmark's or its own."""
    if name == "backends":
        return reads_backend(learner)
    return name in (steps_of(learner).heeds if name in OWN else steps_of(learner).reads(learner))


def _unusual(config: BenchmarkConfig, name: str) -> bool:
    """Whether something is asked for that a row must not claim where nothing was done for it."""
    return (name == "networks" and max(config.networks) > 2) or (name == "compile" and "yes" in config.compile)


def _flag(config: BenchmarkConfig, name: str) -> str:
    return "--no-usual-shapes" if name == "usual_shapes" and not config.usual_shapes else flag_of(name)


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
