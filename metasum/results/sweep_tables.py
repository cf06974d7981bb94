"""The tables of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from metasum.results.surroundings import in_short
from metasum.results.sweep import SweepResult, Trial
from metasum.results.table import NUMBER, WHOLE, Column, Kind, Table, attributes
from metasum.results.terminal import Part

SCORE = Kind(".4f", page_spec=".4g")
SECONDS = Kind(WHOLE.spec, page_spec=".4g")


def _trial(link: Callable[[Trial], str | None] | None = None) -> Column[Trial]:
    return Column("trial", lambda trial: trial.place + 1, NUMBER, link=link)


def _parameters(names: Iterable[str]) -> list[Column[Trial]]:
    def column(name: str) -> Column[Trial]:
        return Column(name, lambda trial: _short(trial.values.get(name)), NUMBER)

    return [column(name) for name in names]


def _score(result: SweepResult, *, accent: bool = False) -> list[Column[Trial]]:
    if result.metric is None:
        return []
    return [Column(result.metric.name, lambda trial: trial.score, SCORE, accent=accent)]


def best_table(result: SweepResult) -> Table[Trial]:
    """The best ten trials, or all of a sweep without a metric."""
    best = result.best_trials()
    names = dict.fromkeys(name for trial in best for name in trial.values)
    seconds: Column[Trial] = Column("seconds", lambda trial: trial.trial_seconds, SECONDS)
    return Table([_trial(), *_parameters(names), *_score(result), seconds], best)


def closer_table(result: SweepResult, link: Callable[[Trial], str | None]) -> Table[Trial]:
    """The same trials on the page: parameters that vary, and other accuracies, too.

    Args:
        result: the sweep's.
        link: where a trial's own report is.
    """
    best = result.best_trials()
    metric = result.metric.name if result.metric else None
    measured = [n for n in best[0].numbers if n.endswith(("_before", "_after")) and n != metric] if best else []

    def number(name: str) -> Column[Trial]:
        return Column(name, lambda trial: trial.numbers.get(name), Kind(".4g"))

    seconds: Column[Trial] = Column("seconds", lambda trial: trial.trial_seconds, SECONDS)
    score = _score(result, accent=True)
    return Table([_trial(link), *_parameters(result.varied()), *score, *map(number, measured), seconds], best)


def all_table(result: SweepResult) -> Table[Trial]:
    """Every trial, and what became of it."""
    columns = [*attributes("state"), *_parameters(result.varied()), *_score(result), *attributes("run")]
    return Table([_trial(), *columns], result.trials)


def trials_table(result: SweepResult) -> Table[Trial]:
    """Every trial, for programs."""

    def under(kind: str) -> list[Column[Trial]]:
        names = dict.fromkeys(name for trial in result.trials for name in getattr(trial, kind))
        return [column(kind, name) for name in names]

    def column(kind: str, name: str) -> Column[Trial]:
        return Column(f"{kind}.{name}", lambda trial: getattr(trial, kind).get(name))

    return Table(
        [
            *attributes("place", "trial", "state"),
            *under("values"),
            Column(result.metric.name if result.metric else "metric", lambda trial: trial.score),
            *attributes("trial_seconds"),
            *under("numbers"),
            *attributes("run", "error"),
        ],
        result.trials,
    )


def sweep_parts(result: SweepResult) -> list[Part]:
    """The best trials, and what became of the others."""
    table = best_table(result)
    failed = [f"failed: trial {trial.place + 1}: {trial.error}" for trial in result.ended("fail")]
    early = len(result.ended("pruned"))
    closing = f"{len(result.ended('complete'))} of {result.count} trials finished"
    closing += f", {early} ended early" if early else ""
    return [*([table] if table.rows else []), *failed, closing, result.sweep]


def _short(value: Any) -> str | None:
    return None if value is None else in_short(value)
