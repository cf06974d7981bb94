"""Everything that can be found wrong with a study before its first run; nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from metasum.baselines.registry import ANCHORS, LEARNERS, learner_named
from metasum.config import flag_of, options_of
from metasum.config.sections import ProcessesConfig
from metasum.errors import ArchitectureError, UsageError
from metasum.learners.learner import Learner, Start
from metasum.run.initialisation import check_given
from metasum.run.meta_plan import meta_datasets, meta_plan
from metasum.run.parts import new_learner
from metasum.run.plan import Plan, resolve
from metasum.run.request import COMMON, Request
from metasum.study.engine.sequential import Engine
from metasum.study.kept import dataset, pair
from metasum.study.request import Study, StudyRequest
from metasum.study.tracking import for_runs, tracking_of
from metasum.tasks.registry import DATASETS, PAIRS
from metasum.training.optimisation import make_fabric
from metasum.training.tracking import check_tracking


def study_of(asked: StudyRequest, *, learners: Sequence[str], targets: Sequence[str], place: Path) -> Study:
    """The study that is asked for, its own results in `place`; raises UsageError for names or seeds that make none."""
    if not learners:
        raise UsageError("--learners names nobody.")
    if asked.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {asked.seeds}.")
    first = asked.request["seed"]
    return Study(
        request=for_runs(asked.request, place),
        targets=tuple(targets),
        learners=tuple(name for name in learners if name not in ANCHORS),
        anchors=tuple(name for name in learners if name in ANCHORS),
        seeds=tuple(range(first, first + asked.seeds)),
        tuned=asked.tuned,
        out=asked.out,
        place=place,
        download=asked.download,
        report=asked.report,
    )


def check(study: Study, engine: Engine) -> dict[str, Plan]:
    """Looks at what all runs depend on; returns, for each target, the plan of the first learner's first run.

    Raises:
        UsageError: settings that none of the learners reads, or that do not go together.
        ArchitectureError: no learner can take this network.
        DatasetError: data is not there, or is not what it should be.
    """
    _check_read(study)
    if engine.apart:
        _check_known_apart(study)
    check_tracking(tracking_of(study.request))
    make_fabric(study.request["device"], study.request["precision"])
    return {target: _check_target(study, target) for target in study.targets}


def trained_by(study: Study) -> list[str]:
    """Names of the learners that train or merge in a study: those that were asked for, and whose networks they take.

    And those whose settings joint training takes.
    """
    endpoints = (learner_named(name).endpoints for name in study.learners)
    like = (ANCHORS.named(name).like for name in study.anchors)
    return list(dict.fromkeys([*study.learners, *(name for name in endpoints if name is not None), *like]))


def _check_read(study: Study) -> None:
    """Raises UsageError for a setting that was given and that none of the learners reads."""
    names = [*study.learners, *(ANCHORS.named(name).like for name in study.anchors)]
    request, learners = study.request, [learner_named(name) for name in names]
    for leaf in options_of(ProcessesConfig):
        if request.given.get(leaf.name, leaf.default) != leaf.default:
            raise UsageError(f"{leaf.flag} says nothing here: each run of a study has one process.")
    for name, value in request.given.items():
        if name != "learner" and not any(_reads(learner, name, value) for learner in learners):
            told = ", ".join([*study.learners, *study.anchors])
            raise UsageError(f"{flag_of(name)} says nothing to any of the learners {told}.")


def _reads(learner: type[Learner], name: str, value: object) -> bool:
    """Whether the learner does what the setting asks for."""
    if name in learner.preset:
        return bool(learner.preset[name] == value)
    return name in COMMON or name in {leaf.name for leaf in options_of(learner.Config)}


def _check_target(study: Study, target: str) -> Plan:
    plans, refusals = [], []
    for name in trained_by(study):
        own = study.run_request(target, name, study.seeds[0])
        plan = resolve(own, pair(own, download=study.download))
        further = plan.learner_class.further_data(plan.own)
        for other in further:
            if other in study.targets:
                raise UsageError(f"{other!r} is a target here: networks that are to be strangers cannot train on it.")
        plans.append(plan)
        try:
            read = {name: dataset(name, own, download=study.download) for name in further}
            new_learner(plan, further=read)  # refuses what the learner cannot take
        except ArchitectureError as error:  # one learner's business, unless there is no other
            refusals.append(error)
        if learner_named(name).start is Start.LEARNT:
            _check_start(study, plan, own)
    if len(refusals) == len(plans):
        raise refusals[0]
    return plans[0]


def _check_start(study: Study, plan: Plan, request: Request) -> None:
    """Raises UsageError where the initialisation that is given, or is to be meta-learnt, is none for these runs."""
    if plan.network.init is not None:
        check_given(plan, request)
        return
    names = meta_datasets(request, held_out=study.targets)
    for name in names:
        dataset(name, request, download=study.download)
    meta_plan(request.having(width=plan.network.width, num_classes=plan.network.num_classes), names)


def _check_known_apart(study: Study) -> None:
    """Raises UsageError for what was registered in this process only, where cells run in others."""
    meta = study.request.given.get("meta_datasets", ())
    datasets = dict.fromkeys([*study.targets, study.support, *meta])
    sources = {f"learner {name!r}": LEARNERS.entries[name].source for name in trained_by(study)}
    sources |= {f"dataset {name!r}": DATASETS[name].source for name in datasets if name in DATASETS}
    pairs = (f"{target}+{study.support}" for target in study.targets)
    sources |= {f"pair {name!r}": PAIRS[name].source for name in pairs if name in PAIRS}
    for what, source in sources.items():
        if source == "Python":
            raise UsageError(
                f"{what} is registered in this Python process only, which those of --jobs and "
                "--scheduler do not know; register it in a file and name that with --plugin, or leave them out."
            )


def of_one_shape(study: Study) -> Study:
    """The study with as many classes for all as any dataset has, so that all networks can be added.

    Raises:
        UsageError: the pairs' recipes differ in width, and --width was not given.
    """
    pairs = {target: pair(study.request.having(target=target), download=study.download) for target in study.targets}
    if "num_classes" not in study.request.given:
        classes = max(data.num_classes for both in pairs.values() for data in both)
        study = dataclasses.replace(study, request=study.request.having(num_classes=classes))
    first = trained_by(study)[0]
    plans = {t: resolve(study.run_request(t, first, study.seeds[0]), both) for t, both in pairs.items()}
    if len({plan.network.width for plan in plans.values()}) > 1:
        told = ", ".join(f"{plan.network.width:g} for {target}" for target, plan in plans.items())
        raise UsageError(f"the pairs' recipes ask for different widths ({told}); give one with --width.")
    return study
