"""The result of a comparison of finished networks: alone, merged by each method, and as an ensemble."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import ClassVar, Literal

from metasum.results.modules import LineBetweenModules, Measured
from metasum.results.table import HUNDREDTHS, PERCENT, Column, Kind, Table
from metasum.results.value import LEFT_OUT, Result, Value

METRIC = Kind(".4g")


@dataclass(frozen=True)
class NetworksRow(Value):
    """One network, or several that are asked together."""

    name: str
    what: Literal["alone", "merged", "task known", "ensemble"]
    """"task known": a network for each dataset, which is no merge, since it has to be known what an input is of."""
    on: Mapping[str, Measured]
    """By dataset; of those alone that have a head for it."""
    seconds: float | None = field(default=None, metadata=LEFT_OUT)
    """What merging took, statistics included; None where nothing was merged."""

    @property
    def mean(self) -> float:
        """Accuracy (or the metric), all its datasets alike."""
        return fmean(found.value for found in self.on.values())


@dataclass(frozen=True)
class NetworksResult(Result):
    """What `metasum.compare` found."""

    kind: ClassVar[str] = "networks"

    networks: tuple[str, ...]
    datasets: tuple[str, ...]
    rows: tuple[NetworksRow, ...]
    left_out: Mapping[str, str]
    """Methods that merge no such networks, and why, in a sentence."""
    kept: tuple[str, ...]
    """Patterns of the parameters that each network kept for itself; such heads are not summed."""
    statistics: str | None
    """Whose batch-norm statistics merged networks have; None where there are no such."""
    seed: int
    lines: Mapping[str, LineBetweenModules]
    """From the first network to the second, by dataset; of two networks without heads of their own."""

    @property
    def table(self) -> Table[NetworksRow]:
        """A row for each network alone, then what methods make, the best first, and what is no merge."""
        return networks_table(self)

    def page(self, path: Path | str) -> Path:
        """Draws everything on one HTML page that needs no other file, and returns its path.

        Raises:
            StorageError: it could not be written.
        """
        from metasum.report.networks_page import write_networks_page

        return write_networks_page(self, Path(path))


def networks_table(result: NetworksResult) -> Table[NetworksRow]:
    """See `NetworksResult.table`."""
    merged = sorted((row for row in result.rows if row.what == "merged"), key=_descending)
    apart = sorted((row for row in result.rows if row.what == "task known"), key=_descending)
    alone, together = ([row for row in result.rows if row.what == what] for what in ("alone", "ensemble"))
    with_metric = any(found.metric is not None for row in result.rows for found in row.on.values())
    kind = METRIC if with_metric else PERCENT
    best = merged[0] if merged else None
    columns: list[Column[NetworksRow]] = [Column("network", lambda row: row.name), Column("what", lambda row: row.what)]
    columns += [_column(name, kind) for name in result.datasets]
    if len(result.datasets) > 1:
        columns.append(Column("mean", _mean_of(result), kind))
    columns[-1] = dataclasses.replace(columns[-1], accent=lambda row: row is best)
    columns.append(Column("seconds", lambda row: row.seconds, HUNDREDTHS, page_head="merging, s"))
    losses = [] if with_metric else [_loss_column(name) for name in result.datasets]
    return Table([*columns, *losses], [*alone, *merged, *apart, *together], notes=_notes(result))


def _descending(row: NetworksRow) -> float:
    return math.inf if math.isnan(row.mean) else -row.mean


def _column(dataset: str, kind: Kind) -> Column[NetworksRow]:
    return Column(dataset, lambda row: row.on[dataset].value if dataset in row.on else None, kind)


def _loss_column(dataset: str) -> Column[NetworksRow]:
    return Column(
        f"{dataset}.loss", lambda row: row.on[dataset].loss if dataset in row.on else None, METRIC, only="csv"
    )


def _mean_of(result: NetworksResult):  # type: ignore[no-untyped-def]  # a function of a row
    return lambda row: row.mean if len(row.on) == len(result.datasets) else None


def _left_out(names: Sequence[str], said: str, reason: str) -> str:
    """Methods of which one thing is said; `reason` is the whole sentence of the first."""
    if len(names) > 1:
        return f"{', '.join(names)}. Each {said}" if said != reason else f"{', '.join(names)}, since {reason}"
    return reason if said != reason else f"{names[0]}, since {reason}"


def _notes(result: NetworksResult) -> tuple[str, ...]:
    why = defaultdict[str, list[str]](list)  # names by what is said of them
    for name, reason in result.left_out.items():
        why[reason.removeprefix(f"{name} ")].append(name)
    notes = [f"Left out: {_left_out(names, said, result.left_out[names[0]])}" for said, names in why.items()]
    if any(row.what == "task known" for row in result.rows):
        notes.append(
            "“task known” is no merge: there is a network for each dataset, and it has to be known which one an input "
            "is of. It shows what a merge could reach, as the ensemble does, which costs a pass for each network."
        )
    if result.kept:
        notes.append(f"Each network keeps {', '.join(result.kept)} for itself, and is measured with its own.")
    if result.statistics is not None:
        notes.append(f"Batch-norm statistics of merged networks: {result.statistics}.")
    return tuple(notes)
