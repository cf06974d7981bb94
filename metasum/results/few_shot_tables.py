"""The tables of few-shot learners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from metasum.results.accuracy import EpisodeAccuracy
from metasum.results.few_shot import FewShotResult, FewShotRun, OtherBaseNetwork, OtherWays, SecondDatasetRow
from metasum.results.surroundings import Tuned, named
from metasum.results.table import (
    COUNT,
    GIBIBYTES,
    NUMBER,
    PERCENT,
    POINTS,
    SHARE,
    WHOLE,
    Column,
    Kind,
    Medium,
    Table,
    attributes,
)
from metasum.results.terminal import Part

PER_SECOND = Kind(".1f", page_spec="")
OF_EPISODES = Kind(SHARE.spec, SHARE.scale, page_unit=PERCENT.page_unit)
"""Accuracy in percent, its unit in the terminal's heads and the page's cells."""

Compared: TypeAlias = tuple[str, dict[str, EpisodeAccuracy]]


def learners_table(result: FewShotResult) -> Table[FewShotRun]:
    """A row for each learner and seed."""
    whose, count = result.evaluated_on, result.settings["episodes"]
    title = (
        f"{result.ways}-way {result.shots}-shot on {result.dataset}: {count} episodes of "
        f"{result.classes[whose]} {whose} classes, ± 95 % interval"
    )
    steps = [Column[FewShotRun]("steps", lambda row: row.steps, NUMBER, only="page")]
    patient = any(row.best_step is not None for row in result.rows)
    if patient:
        steps = [
            Column[FewShotRun]("best step", lambda row: row.best_step, NUMBER),
            Column[FewShotRun]("stopped at", lambda row: row.steps, NUMBER),
        ]
    less: Medium | None = "page" if patient else None  # a line of the terminal has room for either
    return Table(
        (
            *attributes("learner"),
            *attributes("seed", kind=NUMBER),
            Column("accuracy, %", lambda row: row.accuracy, OF_EPISODES, page_head="accuracy", accent=True),
            *steps,
            Column("training, s", lambda row: row.seconds, WHOLE),
            Column("episodes/s", lambda row: row.episodes_per_second, PER_SECOND, only=less),
            Column("peak, GiB", lambda row: row.peak_bytes, GIBIBYTES, only=less),
            Column("learnt numbers", lambda row: row.parameters, COUNT, only="page"),
        ),
        result.rows,
        title,
        [str(trunk) for trunk in result.trunks or ()],
    )


def chosen_table(result: FewShotResult) -> Table[tuple[str, Tuned]]:
    """What a search on validation classes has chosen for each learner."""
    count, steps = result.settings["validation_episodes"], result.settings["tune_steps"]
    return Table(
        (
            Column("learner", lambda row: row[0]),
            Column("settings", lambda row: named(row[1].chosen)),
            Column("accuracy, %", lambda row: max(tried.score for tried in row[1].tried), SHARE),
            Column("of", lambda row: len(row[1].tried), NUMBER),
        ),
        list((result.tuning or {}).items()),
        f"chosen on {count} episodes of validation classes, after at most {steps} steps",
    )


def asked_table(result: FewShotResult) -> Table[OtherWays]:
    """Other numbers of classes than trained with."""
    return _elsewhere(result.asked, "ways", "asked for another number of classes")


def reparameterised_table(result: FewShotResult) -> Table[OtherBaseNetwork]:
    """Other base networks than trained with."""
    return _elsewhere(result.reparameterised, "filters", "fast weights in an untrained base network of other filters")


def _elsewhere(rows: Sequence[Any], varied: str, title: str) -> Table[Any]:
    accuracy: Column[Any] = Column("%", lambda row: row.accuracy, OF_EPISODES, page_head="accuracy")
    return Table([*attributes("learner"), *attributes("seed", varied, kind=NUMBER), accuracy], rows, title)


def then_table(result: FewShotResult) -> Table[SecondDatasetRow]:
    """Both datasets before and after going on with the second."""
    first, second = result.dataset, result.second_dataset
    return Table(
        (
            *attributes("learner"),
            *attributes("seed", kind=NUMBER),
            Column(f"{first} before", lambda row: row.before, OF_EPISODES),
            Column(f"{first} after", lambda row: row.after, OF_EPISODES, page_head="after"),
            Column(f"{second} before", lambda row: row.new_before, OF_EPISODES),
            Column(f"{second} after", lambda row: row.new_after, OF_EPISODES, page_head="after"),
        ),
        result.then,
        f"after going on with {second}",
    )


def differences_table(result: FewShotResult) -> Table[Compared]:
    """Row less column, in points."""

    def against(other: str) -> Column[Compared]:
        return Column(other, lambda row: row[1].get(other, ""), POINTS)

    rows = [(name, dict(found)) for name, found in result.differences.items()]
    return Table((Column("learner", lambda row: row[0], page_head=""), *map(against, result.differences)), rows)


def few_shot_parts(result: FewShotResult) -> list[Part]:
    """A row for each learner, then what else was asked of them."""
    more: list[Table[Any]] = [asked_table(result), reparameterised_table(result), then_table(result)]
    more += [chosen_table(result)] if result.tuning else []
    return [
        learners_table(result),
        *(table for table in more if table.rows),
        *map(str, result.failed or ()),
        result.few_shot,
    ]
