"""The tables of a comparison."""

from __future__ import annotations

from operator import attrgetter
from statistics import fmean

from metasum.results.accuracy import SIDES
from metasum.results.anchors import anchor_columns, anchor_notes
from metasum.results.comparison import COSTS, MEASURES, ComparisonResult, ComparisonRow, ComparisonSummary
from metasum.results.heads import heads_column, heads_told
from metasum.results.settled import alone_over_seeds, unsettled
from metasum.results.table import GIBIBYTES, NUMBER, SHARE, TENTHS, WHOLE, Column, Table, attributes
from metasum.results.terminal import Part


def _side_columns(side: str) -> list[Column[ComparisonSummary]]:
    return [
        Column(measure, attrgetter(f"{side}.{measure}"), SHARE, name=f"{side}.{measure}", accent=measure == "after")
        for measure in MEASURES
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
    title = f"{result.dataset(side)} ({side}), % of {result.evaluated_on} images{heads_told(result.heads)}"
    alone = ((row.learner, getattr(row, side)) for row in result.summary)
    notes = unsettled((alone_over_seeds(*own) for own in alone), on=f" on {result.dataset(side)}, mean over the seeds")
    columns = [*attributes("learner"), *anchor_columns(result.summary), *_side_columns(side)]
    return Table(columns, result.summary, title, (*notes, *anchor_notes(result.summary)))


def costs_table(result: ComparisonResult) -> Table[ComparisonSummary]:
    """A row for each learner: what it costs."""
    return Table([*attributes("learner"), *anchor_columns(result.summary), *_cost_columns()], result.summary)


def summary_table(result: ComparisonResult) -> Table[ComparisonSummary]:
    """All of that in one, for programs, with the means over both sides."""
    means: list[Column[ComparisonSummary]] = [
        Column("mean_before", lambda row: fmean(getattr(row, side).before.mean or 0 for side in SIDES), SHARE),
        Column("mean_after", lambda row: fmean(getattr(row, side).after.mean or 0 for side in SIDES), SHARE),
    ]
    sides = [column for side in SIDES for column in _side_columns(side)]
    last = *anchor_columns(result.summary), heads_column(result.heads)
    return Table([*attributes("learner"), *means, *sides, *_cost_columns(), *last], result.summary)


def rows_table(result: ComparisonResult) -> Table[ComparisonRow]:
    """The runs, for programs."""
    measures = (f"accuracy.{side}.{measure}" for side in SIDES for measure in _measures(result, side))
    run: Column[ComparisonRow] = Column("run", lambda row: row.run, only="csv")
    last = run, *anchor_columns(result.rows), heads_column(result.heads)
    return Table([*attributes("learner", "seed", "operator", *measures, *COSTS), *last], result.rows)


def _measures(result: ComparisonResult, side: str) -> tuple[str, ...]:
    """Names of what was measured on a side, in the order of columns."""
    known = any(getattr(row.accuracy, side).before_running is not None for row in result.rows)
    return (*MEASURES, "before_running") if known else MEASURES


def comparison_parts(result: ComparisonResult) -> list[Part]:
    """For each side, then for the costs: a row for each learner, mean ± standard deviation over its seeds."""
    failed = [str(run) for run in result.failed]
    if not result.summary:
        return ["every run failed", *failed, result.comparison]
    return [*(side_table(result, side) for side in SIDES), costs_table(result), *failed, result.comparison]
