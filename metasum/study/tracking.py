"""What a study tells W&B: a group for its runs and, when it ends, one run of its own with its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from metasum.config import TrainConfig, changed
from metasum.study.comparison import SIDES, flattened
from metasum.training.tracking import surviving
from metasum.training.wandb_runs import Troubles, finishing, open_wandb, under_agent, wandb_label, wandb_mode


def for_runs(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings that the runs of the study in `folder` are tracked with: in one W&B group.

    Under a sweep's agent, which has chosen one W&B run's id, that run is the study's own, and these have none.
    """
    if wandb_mode(config.tracking) == "disabled":
        return config
    if under_agent():
        return changed(config, wandb="disabled")
    return _grouped(config, folder)


def _grouped(config: TrainConfig, folder: Path) -> TrainConfig:
    return changed(config, wandb_group=config.tracking.wandb_group or wandb_label(folder))


def track_study(
    config: TrainConfig, folder: Path, result: Mapping[str, Any], *, note: Callable[[str], None], troubles: Troubles
) -> None:
    """One W&B run for a finished study, resumed where the study is repeated.

    It holds the tables "summary" (`summary_columns` of each learner) and "rows", a bar chart of every learner's mean
    accuracy after the sum, and `LEARNER/COLUMN` for every number of "summary".

    Args:
        config: what its runs share.
        folder: where its results.json is.
        result: which holds this.
        note: says a line.
        troubles: of its runs.
    """
    if wandb_mode(config.tracking) == "disabled":
        return
    kind = "experiment" if "targets" in result else "comparison"
    shown = ("settings", "data", "versions", "machine", "targets", "target", "support", "evaluated_on")
    settings = {name: result[name] for name in shown if name in result} | {
        "learners": list(dict.fromkeys(row["learner"] for row in (*result["rows"], *result["failed"]))),
        "seeds": sorted({row["seed"] for row in (*result["rows"], *result["failed"])}),
    }
    with surviving("W&B", note, troubles):
        tracking = _grouped(config, folder).tracking
        opened = open_wandb(tracking, folder, settings=settings, job_type=kind, note=note, troubles=troubles)
        with finishing(opened) as run:
            import wandb

            summary = [summary_columns(row) for row in result["summary"]]
            if summary:
                told = {name: _table(wandb, rows) for name, rows in (("summary", summary), ("rows", _rows(result)))}
                after = "mean_stranger" if kind == "experiment" else "mean_after"
                bars = _table(wandb, [{name: row[name] for name in ("learner", after)} for row in summary])
                told[after] = wandb.plot.bar(bars, "learner", after, title=after.replace("_", " "))
                run.log(told)
            run.summary.update(summary_fields(summary) | {"failed": len(result["failed"])})


def summary_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's row of a summary, flat: a mean under the name that single runs give it, its deviation with `_std`.

    Of a comparison "target_after", "target_after_std", …; of an experiment "DATASET_before", "DATASET_after" (the sum
    with the support), "DATASET_stranger", …, "union_sum_union_statistics", …. "mean_before", "mean_after" and
    "mean_stranger" are means over both sides, or all targets.
    """
    accuracy = _accuracy(row)
    sides = [values for name, values in accuracy.items() if name != "union"]
    means = {
        f"mean_{measure}": mean(side[measure]["mean"] for side in sides)
        for measure in ("before", "after", "stranger")
        if measure in sides[0]
    }
    costs = {name: value for name, value in row.items() if isinstance(value, Mapping) and name not in accuracy}
    costs.pop("accuracy", None)
    flat = {name.removesuffix("_mean"): value for name, value in flattened({**accuracy, **costs}, separator="_")}
    return {"learner": row["learner"], "seeds": len(row["seeds"]), **means, **flat}


def summary_fields(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Every number in these rows as `LEARNER/COLUMN`."""
    fields = ((f"{row['learner']}/{name}", value) for row in rows for name, value in row.items())
    return {name: value for name, value in fields if isinstance(value, int | float)}


def _accuracy(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of each side, or of each target and their union."""
    found: Mapping[str, Any] = row["accuracy"] if "accuracy" in row else {side: row[side] for side in SIDES}
    return found


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs' rows, flat, but for their folders."""
    rows = []
    for row in result["rows"]:
        rest = {name: value for name, value in row.items() if name not in ("accuracy", "run")}
        rows.append(dict(flattened({**rest, **row["accuracy"]}, separator="_")))
    return rows


def _table(wandb: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])
