"""The tables of a sum of strangers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypeAlias

from metasum.results.heads import heads_told
from metasum.results.settled import Alone, unsettled
from metasum.results.strangers import DatasetAccuracyAndAlone, Opinion, StrangersAccuracy, SummedRun, SumResult
from metasum.results.table import HUNDREDTHS, NUMBER, PERCENT, Cell, Column, Table, attributes
from metasum.results.terminal import Part

SumRow: TypeAlias = tuple[str, Cell, Cell, Cell, Cell]
"""Name; alone; in the sum, measured alike; and two more that its heads name."""


def sum_table(result: SumResult) -> Table[SumRow]:
    """Each dataset, then all images and the mean of the datasets.

    Where the sum has every network's own statistics, those are what counts, of the networks alone as well.
    """
    kept = result.accuracy.union.sum_own_statistics is not None
    rows, heads = (_kept_rows if kept else _recalibrated_rows)(result)
    last = {"all images", "mean of datasets"}
    return Table(
        (
            Column("dataset", lambda row: row[0]),
            Column("alone", lambda row: row[1], PERCENT),
            Column(heads[0], lambda row: row[2], PERCENT, accent=lambda row: kept or row[0] not in last),
            Column(heads[1], lambda row: row[3], PERCENT, accent=lambda row: not kept and row[0] in last),
            *((Column(heads[2], lambda row: row[4], PERCENT),) if kept else ()),
        ),
        rows,
        notes=(
            *(() if kept else unsettled(Alone(n, own.alone, own.alone_running) for n, own in _datasets(result))),
            *no_strangers(result.runs),
        ),
    )


def _datasets(result: SumResult) -> Iterable[tuple[str, DatasetAccuracyAndAlone]]:
    return result.accuracy.datasets.items()


def _recalibrated_rows(result: SumResult) -> tuple[list[SumRow], tuple[str, ...]]:
    union = result.accuracy.union
    rows: list[SumRow] = [(name, own.alone, own.sum, own.sum_union_statistics, "") for name, own in _datasets(result)]
    rows += [("all images", "", "", union.sum_union_statistics, "")]
    rows += [("mean of datasets", "", "", union.mean_of_datasets, "")]
    told = f"{result.operator}{heads_told(result.heads)}"
    return rows, (f"{told}, statistics of the dataset", "statistics of the union")


def _kept_rows(result: SumResult) -> tuple[list[SumRow], tuple[str, ...]]:
    union = result.accuracy.union
    rows: list[SumRow] = [
        (name, own.alone_running, own.after, own.sum_union_statistics, own.sum) for name, own in _datasets(result)
    ]
    rows += [("all images", "", union.sum_own_statistics, union.sum_union_statistics, "")]
    rows += [("mean of datasets", "", fmean(own.after for _, own in _datasets(result)), union.mean_of_datasets, "")]
    heads = ("each network's own statistics", "recalibrated on the union", "recalibrated on the dataset")
    return rows, (f"{result.operator}, {heads[0]}", *heads[1:])


def no_strangers(runs: Sequence[SummedRun]) -> tuple[str, ...]:
    """A sentence for each run whose training has seen a dataset that another one of them was trained on."""
    targets = [run.target for run in runs]
    seen = {run.run: [name for name in dict.fromkeys(targets) if name in run.saw] for run in runs}
    return tuple(
        f"{run} was trained beside images of {', '.join(names)}: its network is no stranger there."
        for run, names in seen.items()
        if names
    )


def opinions_table(result: SumResult) -> Table[Opinion]:
    """What every network says of the others' datasets, those first that cost most."""
    each = [] if result.opinions is None else [o for o in result.opinions.each if o.auroc is not None]
    return Table(
        (
            Column("dataset", lambda row: row.dataset),
            Column("beside", lambda row: row.network),
            Column("logits of both", lambda row: row.pair, PERCENT, accent=True),
            Column("loudness", lambda row: row.loudness, HUNDREDTHS),
            Column("AUROC", lambda row: row.auroc, PERCENT),
        ),
        sorted(each, key=lambda row: row.pair or 0),
        "opinions on one another's images",
    )


def operators_table(result: SumResult) -> Table[tuple[str, StrangersAccuracy]]:
    """A row for each operator."""
    datasets = (
        Column(name, lambda row, name=name: row[1].datasets[name].after, PERCENT)  # type: ignore[misc]
        for name in result.accuracy.datasets
    )
    return Table(
        (
            Column("operator", lambda row: row[0]),
            *datasets,
            Column("mean, union's statistics", lambda row: row[1].union.mean_of_datasets, PERCENT),
        ),
        tuple(result.by_operator.items()),
    )


def runs_table(result: SumResult) -> Table[SummedRun]:
    """The runs whose networks were added."""
    return Table(
        (
            *attributes("run", "target", "support", "learner"),
            *attributes("seed", kind=NUMBER),
            Column("initialisation", lambda run: run.initial_checksum),
            Column("data", lambda run: run.data_checksum),
        ),
        result.runs,
    )


def sum_parts(result: SumResult) -> list[Part]:
    """Each dataset and the union under the operator asked for, every operator, then opinions."""
    opinions = [opinions_table(result)] if result.heads == "summed" else []
    return [sum_table(result), operators_table(result), *opinions, result.sum]
