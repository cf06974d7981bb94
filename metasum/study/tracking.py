"""What a study tells W&B: a group for its runs and, when it ends, one run of its own with its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metasum.config import options_of
from metasum.config.sections import TrackingConfig
from metasum.results import comparison_tables, experiment_tables
from metasum.results.comparison import ComparisonResult
from metasum.results.experiment import ExperimentResult
from metasum.results.exports import fields_by_learner, wandb_table
from metasum.results.table import Table
from metasum.run.request import Request
from metasum.training.tracking import surviving
from metasum.training.wandb_runs import TrackerTroubles, finishing, open_wandb, under_agent, wandb_label, wandb_mode


def tracking_of(request: Request) -> TrackingConfig:
    """Where runs are written down, by what was given; raises UsageError for what W&B does not take."""
    return TrackingConfig(**{leaf.name: request[leaf.name] for leaf in options_of(TrackingConfig)})


def for_runs(request: Request, folder: Path) -> Request:
    """The settings that the runs of the study in `folder` are tracked with: in one W&B group.

    Under a sweep's agent, which has chosen one W&B run's id, that run is the study's own, and these have none.
    """
    tracking = tracking_of(request)
    if wandb_mode(tracking) == "disabled":
        return request
    if under_agent():
        return request.having(wandb="disabled")
    return request.having(wandb_group=_group(tracking, folder))


def _group(tracking: TrackingConfig, folder: Path) -> str:
    return tracking.wandb_group or wandb_label(folder)


def track_study(
    request: Request,
    folder: Path,
    result: ComparisonResult | ExperimentResult,
    *,
    note: Callable[[str], None],
    troubles: TrackerTroubles,
) -> None:
    """One W&B run for a finished study, resumed where the study is repeated.

    It holds the tables "summary" (a row for each learner) and "rows" (for each of its seeds), a bar chart of every
    learner's mean accuracy after the sum, and `LEARNER/COLUMN` for every number of "summary".
    """
    tracking = tracking_of(request)
    if wandb_mode(tracking) == "disabled":
        return
    tracking = dataclasses.replace(tracking, wandb_group=_group(tracking, folder))
    plain = result.plain()
    shown = ("settings", "data", "versions", "machine", "targets", "target", "support", "evaluated_on")
    cells = (*result.rows, *result.failed)
    settings = {name: plain[name] for name in shown if name in plain} | {
        "learners": list(dict.fromkeys(cell.learner for cell in cells)),
        "seeds": sorted({cell.seed for cell in cells}),
    }
    with surviving("W&B", note, troubles):
        summary, rows, after = _tables(result)
        opened = open_wandb(tracking, folder, settings=settings, job_type=result.kind, note=note, troubles=troubles)
        with finishing(opened) as run:
            import wandb

            if result.summary:
                told = {"summary": wandb_table(wandb, summary), "rows": wandb_table(wandb, rows)}
                bars = wandb_table(wandb, summary.only("learner", after))
                told[after] = wandb.plot.bar(bars, "learner", after, title=after.replace("_", " "))
                run.log(told)
            run.summary.update(fields_by_learner(summary) | {"failed": len(result.failed)})


def _tables(result: ComparisonResult | ExperimentResult) -> tuple[Table[Any], Table[Any], str]:
    """The tables "summary" and "rows", and the column of the first that answers the study's question."""
    if isinstance(result, ExperimentResult):
        return experiment_tables.summary_table(result), experiment_tables.rows_table(result), "mean_stranger"
    return comparison_tables.summary_table(result), comparison_tables.rows_table(result), "mean_after"
