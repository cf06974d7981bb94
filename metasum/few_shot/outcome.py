"""What has become of the study's cells, as one result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from metasum.config import Checked
from metasum.errors import MetaSumError
from metasum.few_shot.cells import Answers, shares_of
from metasum.few_shot.config import EpisodesConfig, PretrainingConfig, QuestionsConfig, UpdatesConfig
from metasum.few_shot.measuring import differences
from metasum.few_shot.study import FewShotStudy
from metasum.results.few_shot import (
    FewShotResult,
    FewShotRun,
    FewShotSummary,
    SecondDatasetResult,
    SecondDatasetRow,
)
from metasum.results.surroundings import Failed
from metasum.run.description import describe_surroundings
from metasum.study.engine.cell import Failure, Outcome


def conclude(study: FewShotStudy, outcomes: Mapping[str, Outcome]) -> FewShotResult:
    """What results.json holds.

    Args:
        study: the plan.
        outcomes: of its cells, by name.

    Raises:
        MetaSumError: no learner has a result; the first failure's sentence.
    """
    done = {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, Failure)}
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Failure)]
    rows: list[FewShotRun] = [done[course.plan.name] for course in study.courses if course.plan.name in done]
    if not rows:
        raise MetaSumError(f"{failures[0].cell} failed: {failures[0].error}")
    answers: list[Answers] = [done[name] for course in study.courses if (name := study.ask(course).name) in done]
    dataset, asked = study.courses[0].dataset, study.courses[0].plan.episodes
    names = list(dict.fromkeys(row.learner for row in rows))
    return FewShotResult(
        dataset=asked.dataset,
        ways=asked.ways,
        shots=asked.shots,
        classes={part: len(classes) for part, classes in dataset.classes.items()},
        rows=tuple(rows),
        summary=tuple(FewShotSummary.of([row for row in rows if row.learner == name]) for name in names),
        differences=differences(_shares_by_learner(study, rows)),
        asked=tuple(found for answer in answers for found in answer.other_ways),
        reparameterised=tuple(found for answer in answers for found in answer.other_filters),
        then=tuple(_second_rows(study, done)),
        second_dataset=study.questions.then,
        evaluated_on=asked.evaluate_on,
        settings=_settings(study),
        data={"name": dataset.name, "source": dataset.source, "checksum": dataset.checksum},
        **describe_surroundings(),
        few_shot=str(study.folder),
        failed=tuple(_failed(study, failures)) or None,
    )


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
    return found


def _settings(study: FewShotStudy) -> dict[str, Any]:
    """Those of all learners by name, then each one's own under its name."""
    sections: tuple[type[Checked], ...] = (EpisodesConfig, UpdatesConfig, PretrainingConfig, QuestionsConfig)
    found = {name: value for section in sections for name, value in vars(study.request.section(section)).items()}
    for course in study.courses:
        plan = course.plan
        trained = dataclasses.asdict(plan.meta_training) if plan.learner_class.meta_trains else {}
        own = {**trained, **dataclasses.asdict(plan.own)}
        found |= {plan.learner: own} if own else {}
    return found
