"""What the cells of a few-shot study found, as one result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from metasum.errors import MetaSumError
from metasum.few_shot.cells import shares_of
from metasum.few_shot.config import EpisodesConfig, PretrainingConfig, QuestionsConfig, SearchConfig
from metasum.few_shot.measuring import differences
from metasum.few_shot.study import FewShotStudy
from metasum.results.few_shot import (
    FewShotResult,
    FewShotRun,
    FewShotSummary,
    OtherBaseNetwork,
    OtherWays,
    SecondDatasetResult,
    SecondDatasetRow,
    Trunk,
)
from metasum.results.surroundings import Failed, Tuned
from metasum.run.description import describe_surroundings
from metasum.study.engine.cell import Failure, Outcome


def conclude(study: FewShotStudy, outcomes: Mapping[str, Outcome]) -> FewShotResult:
    """What results.json holds; raises MetaSumError where no learner has a result, with the first failure's sentence."""
    done = {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, Failure)}
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    rows: list[FewShotRun] = [done[course.plan.name] for course in study.courses if course.plan.name in done]
    if not rows:
        raise MetaSumError(f"{failures[0].cell} failed: {failures[0].error}")
    answers = [answer for course in study.courses for answer in done.get(study.ask(course).name, ())]
    dataset, asked = study.courses[0].dataset, study.courses[0].plan.episodes
    names = list(dict.fromkeys(row.learner for row in rows))
    tuning = _tuning(study, done)
    return FewShotResult(
        dataset=asked.dataset,
        ways=asked.ways,
        shots=asked.shots,
        classes={part: len(classes) for part, classes in dataset.classes.items()},
        rows=tuple(rows),
        summary=tuple(FewShotSummary.of([row for row in rows if row.learner == name]) for name in names),
        differences=differences(_shares_by_learner(study, rows)),
        asked=tuple(answer for answer in answers if isinstance(answer, OtherWays)),
        reparameterised=tuple(answer for answer in answers if isinstance(answer, OtherBaseNetwork)),
        then=tuple(_second_rows(study, done)),
        second_dataset=study.questions.then,
        evaluated_on=asked.evaluate_on,
        tuning=tuning or None,
        settings=_settings(study, tuning),
        data={"name": dataset.name, "source": dataset.source, "checksum": dataset.checksum},
        **describe_surroundings(),
        few_shot=str(study.folder),
        trunks=tuple(_trunks(study, done)) or None,
        failed=tuple(_failed(study, failures)) or None,
    )


def _tuning(study: FewShotStudy, done: Mapping[str, Any]) -> dict[str, Tuned]:
    """Under each learner's name what was chosen for its runs, where something could be tried."""
    choices = {course.learner: study.choice(course) for course in study.courses}
    found = {name: done.get(choice.cell) for name, choice in choices.items() if choice is not None}
    return {name: tuned for name, tuned in found.items() if isinstance(tuned, Tuned) and tuned.tried}


def _trunks(study: FewShotStudy, done: Mapping[str, Any]) -> list[Trunk]:
    """Where pretraining stopped by itself, seed by seed."""
    names = {course.plan.pretrained_name: course.seed for course in study.courses}
    found = {seed: done[name] for name, seed in names.items() if name in done}
    return [Trunk(seed, own.steps, own.best_step) for seed, own in found.items() if own.best_step is not None]


def _second_rows(study: FewShotStudy, done: Mapping[str, Any]) -> list[SecondDatasetRow]:
    rows = []
    for course in study.courses:
        go_on = study.go_on(course)
        if go_on is not None and go_on.name in done:
            before: FewShotRun = done[course.plan.name]
            after: SecondDatasetResult = done[go_on.name]
            rows.append(SecondDatasetRow(before.learner, before.seed, before.accuracy, **vars(after)))
    return rows


def _shares_by_learner(study: FewShotStudy, rows: Sequence[FewShotRun]) -> dict[str, list[list[float]]]:
    """Of the learners that have a result with every seed; the others' means would be those of other seeds."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        found.setdefault(row.learner, []).append(shares_of(study.folder, row))
    seeds = len({course.plan.seed for course in study.courses})
    return {name: shares for name, shares in found.items() if len(shares) == seeds}


def _failed(study: FewShotStudy, failures: Sequence[Failure]) -> list[Failed]:
    """By learner and seed, once for each: what failed only because another cell of the same learner did is left out."""
    found = []
    for course in study.courses:
        plan, go_on = course.plan, study.go_on(course)
        own = {plan.name, study.ask(course).name, *([] if go_on is None else [go_on.name])}
        found += [
            Failed(plan.learner, plan.seed, failure.error, failure.cell)
            for failure in failures
            if failure.cell in own and failure.because not in own
        ]
    trials = {trial.name: trial.course for name in study.learners for trial in study.trials(name)}
    for failure in failures:
        if failure.cell in trials and failure.because is None:
            course = trials[failure.cell]
            found.append(Failed(course.learner, course.seed, failure.error, failure.cell))
    return found


def _settings(study: FewShotStudy, tuning: Mapping[str, Tuned]) -> dict[str, Any]:
    """Those of all learners by name, then each one's own under its name, chosen ones as they were chosen."""
    request = study.request
    further = (request.section(section) for section in (PretrainingConfig, QuestionsConfig, SearchConfig))
    sections = (request.section(EpisodesConfig), request.updates(), *further)
    found = {name: value for section in sections for name, value in vars(section).items()}
    for course in study.courses:
        plan = course.plan
        trained = dataclasses.asdict(plan.meta_training) if plan.learner_class.meta_trains else {}
        own = {**trained, **dataclasses.asdict(plan.own)}
        own |= tuning[plan.learner].chosen if plan.learner in tuning else {}
        found |= {plan.learner: own} if own else {}
    return found
