"""The tables of a comparison."""

from __future__ import annotations

from statistics import fmean

from metasum.results.accuracy import SIDES
from metasum.results.comparison import MEASURES, ComparisonResult, ComparisonRow, ComparisonSummary
from metasum.results.table import GIBIBYTES, NUMBER, SHARE, TENTHS, WHOLE, Column, Table
from metasum.results.terminal import Part


def _learner() -> Column[ComparisonSummary]:
    return Column("learner", lambda row: row.learner)


def _side_columns(side: str) -> list[Column[ComparisonSummary]]:
    return [
        Column("before", lambda row: row.side(side).before, SHARE, name=f"{side}.before"),
        Column("after", lambda row: row.side(side).after, SHARE, name=f"{side}.after", accent=True),
        Column("drop", lambda row: row.side(side).drop, SHARE, name=f"{side}.drop"),
        Column("retention", lambda row: row.side(side).retention, SHARE, name=f"{side}.retention"),
    ]


def _cost_columns() -> list[Column[ComparisonSummary]]:
    return [
        Column("seeds", lambda row: len(row.seeds), NUMBER),
        Column("training, s", lambda row: row.seconds, WHOLE, name="seconds"),
        Column("sum, s", lambda row: row.sum_seconds, TENTHS, name="sum_seconds", page_head="making the sum, s"),
        Column("images/s", lambda row: row.images_per_second, WHOLE, name="images_per_second"),
        Column("peak, GiB", lambda row: row.peak_bytes, GIBIBYTES, name="peak_bytes"),
    ]


def side_table(result: ComparisonResult, side: str) -> Table[ComparisonSummary]:
    """A row for each learner: what it does on one side's dataset."""
    title = f"{result.dataset(side)} ({side}), % of {result.evaluated_on} images"
    return Table([_learner(), *_side_columns(side)], result.summary, title)


def costs_table(result: ComparisonResult) -> Table[ComparisonSummary]:
    """A row for each learner: what it costs."""
    return Table([_learner(), *_cost_columns()], result.summary)


def summary_table(result: ComparisonResult) -> Table[ComparisonSummary]:
    """All of that in one, for programs, with the means over both sides."""
    means: list[Column[ComparisonSummary]] = [
        Column("mean_before", lambda row: fmean(row.side(side).before.mean or 0 for side in SIDES), SHARE),
        Column("mean_after", lambda row: fmean(row.side(side).after.mean or 0 for side in SIDES), SHARE),
    ]
    sides = [column for side in SIDES for column in _side_columns(side)]
    return Table([_learner(), *means, *sides, *_cost_columns()], result.summary)


def rows_table(result: ComparisonResult) -> Table[ComparisonRow]:
    """The runs, for programs."""

    def measure(side: str, name: str) -> Column[ComparisonRow]:
        own = f"accuracy.{side}.{name}"
        return Column(own, lambda row: getattr(dict(row.accuracy.sides())[side], name), SHARE)

    return Table(
        [
            Column("learner", lambda row: row.learner),
            Column("seed", lambda row: row.seed, NUMBER),
            Column("operator", lambda row: row.operator),
            *(measure(side, name) for side in SIDES for name in MEASURES),
            Column("seconds", lambda row: row.seconds, NUMBER),
            Column("sum_seconds", lambda row: row.sum_seconds, NUMBER),
            Column("peak_bytes", lambda row: row.peak_bytes, NUMBER),
            Column("images_per_second", lambda row: row.images_per_second, NUMBER),
            Column("run", lambda row: row.run, only="csv"),
        ],
        result.rows,
    )


def comparison_parts(result: ComparisonResult) -> list[Part]:
    """For each side, then for the costs: a row for each learner, mean ± standard deviation over its seeds."""
    failed = [str(run) for run in result.failed]
    if not result.summary:
        return ["every run failed", *failed, result.comparison]
    return [*(side_table(result, side) for side in SIDES), costs_table(result), *failed, result.comparison]
