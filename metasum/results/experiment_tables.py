"""The tables of an experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from operator import attrgetter
from statistics import fmean

from metasum.results.anchors import anchor_columns, anchor_notes
from metasum.results.experiment import ExperimentResult
from metasum.results.experiment_rows import MEASURES, OPTIONAL, RECALIBRATED, ExperimentRow, TargetAccuracy
from metasum.results.experiment_summary import ExperimentSummary, OpinionSpread, TargetSpread
from metasum.results.heads import heads_column, heads_told
from metasum.results.settled import alone_over_seeds, unsettled
from metasum.results.table import HUNDREDTHS, NUMBER, SHARE, WHOLE, Column, Kind, Table, attributes
from metasum.results.terminal import Part

WORST = 3
"""Opinions of each learner that the terminal shows; the page shows all."""


def measures(found: Iterable[TargetAccuracy | TargetSpread]) -> list[str]:
    """Names of what was measured on a target, in the order of a table's columns."""
    there = list(found)
    return [m for m in MEASURES if m not in OPTIONAL or any(getattr(each, m) is not None for each in there)]


def _target_columns(result: ExperimentResult, target: str) -> list[Column[ExperimentSummary]]:
    heads = {
        "before": "before",
        "after": f"+ {result.support}",
        "stranger": "+ stranger",
        "retention": "kept",
        "stranger_union_statistics": "one set",
        RECALIBRATED: "recalibrated",
        "ensemble": "ensemble",
    }

    def column(measure: str, head: str) -> Column[ExperimentSummary]:
        name, accent = f"accuracy.{target}.{measure}", measure == "stranger"
        return Column(head, lambda row: getattr(row.accuracy[target], measure), SHARE, name=name, accent=accent)

    known = measures(row.accuracy[target] for row in result.summary)
    return [column(measure, head) for measure, head in heads.items() if measure in known]


def _union_columns(result: ExperimentResult) -> list[Column[ExperimentSummary]]:
    own_statistics = any(row.union.sum_own_statistics is not None for row in result.summary)
    means = {"union.sum_union_statistics": "all images", "union.mean_of_datasets": "mean of targets"}
    if own_statistics:
        means["union.sum_own_statistics"] = "all images, each network's own statistics"
    return [
        *(Column(head, attrgetter(own), SHARE, name=f"accuracy.{own}", accent=True) for own, head in means.items()),
        Column("seconds", lambda row: row.seconds, WHOLE, page_head="training, s"),
    ]


def target_table(result: ExperimentResult, target: str) -> Table[ExperimentSummary]:
    """A row for each learner: what it does on one target."""
    title = f"{target}, % of {result.evaluated_on} images{heads_told(result.heads)}"
    alone = (alone_over_seeds(row.learner, row.accuracy[target]) for row in result.summary)
    notes = unsettled(alone, on=f" on {target}, mean over the seeds")
    columns = [*attributes("learner"), *anchor_columns(result.summary), *_target_columns(result, target)]
    return Table(columns, result.summary, title, (*notes, *anchor_notes(result.summary)))


def _narrow(table: Table[ExperimentSummary]) -> Table[ExperimentSummary]:
    """As it fits a terminal: what recalibrating would have done is for the page and for programs."""
    shown = [column for column in table.columns if not column.name.endswith(RECALIBRATED)]
    return dataclasses.replace(table, columns=shown)


def union_table(result: ExperimentResult) -> Table[ExperimentSummary]:
    """A row for each learner: what one network does on all targets."""
    told = "one trunk, each image with its dataset's own head" if result.heads == "own" else "one network"
    title = f"union of {', '.join(result.targets)}: {told}"
    columns = [*attributes("learner"), *anchor_columns(result.summary), *_union_columns(result)]
    return Table(columns, result.summary, title, anchor_notes(result.summary))


def opinions_table(result: ExperimentResult, most: int | None = None) -> Table[tuple[str, OpinionSpread]]:
    """What each learner's networks say of one another's datasets, the worst first; at most `most` of each learner."""
    rows = [(row.learner, opinion) for row in result.summary for opinion in (row.opinions or ())[:most]]

    def column(head: str, measure: str, kind: Kind = SHARE) -> Column[tuple[str, OpinionSpread]]:
        return Column(head, lambda row: getattr(row[1], measure), kind, name=measure, accent=measure == "kept")

    return Table(
        [
            Column("learner", lambda row: row[0]),
            Column("dataset", lambda row: row[1].dataset),
            Column("beside", lambda row: row[1].network, name="network"),
            column("logits of both", "pair"),
            column("kept", "kept"),
            column("loudness", "loudness", HUNDREDTHS),
            column("AUROC", "auroc"),
        ],
        rows,
        f"opinions on one another's {result.evaluated_on} images, the worst first",
    )


def summary_table(result: ExperimentResult) -> Table[ExperimentSummary]:
    """All of that in one, for programs, with the means over the targets."""

    def mean(measure: str) -> Column[ExperimentSummary]:
        def over_targets(row: ExperimentSummary) -> float | None:
            means = [getattr(row.accuracy[target], measure).mean for target in result.targets]
            return None if None in means else fmean(means)

        return Column(f"mean_{measure}", over_targets, SHARE)

    seeds: Column[ExperimentSummary] = Column("seeds", lambda row: len(row.seeds), NUMBER)
    targets = [column for target in result.targets for column in _target_columns(result, target)]
    means = [mean(measure) for measure in ("before", "after", "stranger")]
    last = *anchor_columns(result.summary), heads_column(result.heads)
    return Table([*attributes("learner"), seeds, *means, *targets, *_union_columns(result), *last], result.summary)


def rows_table(result: ExperimentResult) -> Table[ExperimentRow]:
    """Learners and seeds, for programs."""

    def on(target: str, measure: str) -> Column[ExperimentRow]:
        return Column(f"accuracy.{target}.{measure}", lambda row: getattr(row.accuracy[target], measure), SHARE)

    def on_union(measure: str) -> Column[ExperimentRow]:
        return Column(f"accuracy.union.{measure}", lambda row: getattr(row.union, measure), SHARE)

    return Table(
        [
            *attributes("learner", "seed", "seconds", "peak_bytes"),
            *(
                on(target, measure)
                for target in result.targets
                for measure in measures(row.accuracy[target] for row in result.rows)
            ),
            *map(on_union, ("sum_union_statistics", "mean_of_datasets")),
            *anchor_columns(result.rows),
            heads_column(result.heads),
        ],
        result.rows,
    )


def experiment_parts(result: ExperimentResult) -> list[Part]:
    """For each target, then for their union: a row for each learner, mean ± standard deviation over its seeds."""
    failed = [str(run) for run in result.failed]
    if not result.summary:
        return ["every run failed", *failed, result.experiment]
    tables = [_narrow(target_table(result, target)) for target in result.targets]
    opinions = opinions_table(result, WORST)
    return [*tables, union_table(result), *([opinions] if opinions.rows else []), *failed, result.experiment]
