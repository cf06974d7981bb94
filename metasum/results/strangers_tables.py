"""The tables of a sum of strangers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TypeAlias

from metasum.results.settled import Alone, unsettled
from metasum.results.strangers import Opinion, StrangersAccuracy, SummedRun, SumResult
from metasum.results.table import HUNDREDTHS, NUMBER, PERCENT, Cell, Column, Table, attributes
from metasum.results.terminal import Part

SumRow: TypeAlias = tuple[str, Cell, Cell, Cell, Cell, Cell]
"""Name; alone, under the operator with the dataset's own statistics, with the union's, and with every network's own;
alone with its own."""


def sum_table(result: SumResult) -> Table[SumRow]:
    """Each dataset, then all images and the mean of the datasets."""
    union = result.accuracy.union
    datasets = result.accuracy.datasets
    rows: list[SumRow] = [
        (name, found.alone, found.sum, found.sum_union_statistics, found.sum_own_statistics, found.alone_running)
        for name, found in datasets.items()
    ]
    means = [found.sum_own_statistics for found in datasets.values() if found.sum_own_statistics is not None]
    mean = fmean(means) if means else None
    own_union = "" if union.sum_own_statistics is None else union.sum_own_statistics
    rows += [("all images", "", "", union.sum_union_statistics, own_union, "")]
    rows += [("mean of datasets", "", "", union.mean_of_datasets, mean, "")]
    own: list[Column[SumRow]] = [
        Column("alone, its own statistics", lambda row: row[5], PERCENT),
        Column("each network's own statistics", lambda row: row[4], PERCENT),
    ]
    return Table(
        (
            Column("dataset", lambda row: row[0]),
            Column("alone", lambda row: row[1], PERCENT),
            Column(
                f"{result.operator}, statistics of the dataset",
                lambda row: row[2],
                PERCENT,
                accent=lambda row: row[2] != "",
            ),
            Column("statistics of the union", lambda row: row[3], PERCENT, accent=lambda row: row[2] == ""),
            *(own if means else ()),
        ),
        rows,
        notes=(
            *unsettled(Alone(name, found.alone, found.alone_running) for name, found in datasets.items()),
            *no_strangers(result.runs),
        ),
    )


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
    return [sum_table(result), operators_table(result), opinions_table(result), result.sum]
