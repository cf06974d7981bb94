"""The tables of an experiment."""

from __future__ import annotations

from statistics import fmean

from metasum.results.experiment import MEASURES, ExperimentResult, ExperimentRow, ExperimentSummary
from metasum.results.table import NUMBER, SHARE, WHOLE, Column, Table
from metasum.results.terminal import Part


def _learner() -> Column[ExperimentSummary]:
    return Column("learner", lambda row: row.learner)


def _target_columns(result: ExperimentResult, target: str) -> list[Column[ExperimentSummary]]:
    heads = {
        "before": "before",
        "after": f"+ {result.support}",
        "stranger": "+ stranger",
        "retention": "retention",
        "stranger_union_statistics": "+ stranger, union's statistics",
    }

    def column(measure: str, head: str) -> Column[ExperimentSummary]:
        name, accent = f"accuracy.{target}.{measure}", measure == "stranger"
        return Column(head, lambda row: getattr(row.accuracy[target], measure), SHARE, name=name, accent=accent)

    return [column(measure, head) for measure, head in heads.items()]


def _union_columns() -> list[Column[ExperimentSummary]]:
    means = {"sum_union_statistics": "all images", "mean_of_datasets": "mean of targets"}

    def column(measure: str, head: str) -> Column[ExperimentSummary]:
        return Column(
            head, lambda row: getattr(row.union, measure), SHARE, name=f"accuracy.union.{measure}", accent=True
        )

    seconds: Column[ExperimentSummary] = Column("seconds", lambda row: row.seconds, WHOLE, page_head="training, s")
    return [*(column(measure, head) for measure, head in means.items()), seconds]


def target_table(result: ExperimentResult, target: str) -> Table[ExperimentSummary]:
    """A row for each learner: what it does on one target."""
    title = f"{target}, % of {result.evaluated_on} images"
    return Table([_learner(), *_target_columns(result, target)], result.summary, title)


def union_table(result: ExperimentResult) -> Table[ExperimentSummary]:
    """A row for each learner: what one network does on all targets."""
    title = f"union of {', '.join(result.targets)}: one network"
    return Table([_learner(), *_union_columns()], result.summary, title)


def summary_table(result: ExperimentResult) -> Table[ExperimentSummary]:
    """All of that in one, for programs, with the means over the targets."""

    def mean(measure: str) -> Column[ExperimentSummary]:
        def over_targets(row: ExperimentSummary) -> float:
            return fmean(getattr(row.accuracy[target], measure).mean for target in result.targets)

        return Column(f"mean_{measure}", over_targets, SHARE)

    seeds: Column[ExperimentSummary] = Column("seeds", lambda row: len(row.seeds), NUMBER)
    targets = [column for target in result.targets for column in _target_columns(result, target)]
    means = [mean(measure) for measure in ("before", "after", "stranger")]
    return Table([_learner(), seeds, *means, *targets, *_union_columns()], result.summary)


def rows_table(result: ExperimentResult) -> Table[ExperimentRow]:
    """Learners and seeds, for programs."""

    def on(target: str, measure: str) -> Column[ExperimentRow]:
        return Column(f"accuracy.{target}.{measure}", lambda row: getattr(row.accuracy[target], measure), SHARE)

    return Table(
        [
            Column("learner", lambda row: row.learner),
            Column("seed", lambda row: row.seed, NUMBER),
            Column("seconds", lambda row: row.seconds, NUMBER),
            Column("peak_bytes", lambda row: row.peak_bytes, NUMBER),
            *(on(target, measure) for target in result.targets for measure in MEASURES),
            Column("accuracy.union.sum_union_statistics", lambda row: row.union.sum_union_statistics, SHARE),
            Column("accuracy.union.mean_of_datasets", lambda row: row.union.mean_of_datasets, SHARE),
        ],
        result.rows,
    )


def experiment_parts(result: ExperimentResult) -> list[Part]:
    """For each target, then for their union: a row for each learner, mean ± standard deviation over its seeds."""
    failed = [str(run) for run in result.failed]
    if not result.summary:
        return ["every run failed", *failed, result.experiment]
    tables = (target_table(result, target) for target in result.targets)
    return [*tables, union_table(result), *failed, result.experiment]
