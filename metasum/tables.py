"""Results on stdout: JSON for programs, tables for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from metasum.spread import in_short, with_spread


def show(result: dict[str, Any], *, as_json: bool, parts: Callable[[dict[str, Any]], list[Any]]) -> None:
    """Prints `result` as JSON, or the tables and lines that `parts` makes of it."""
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    from rich.console import Console

    console = Console()
    for part in parts(result):
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))  # no path is broken


def table_of(rows: list[dict[str, Any]], *, right: tuple[str, ...] = ()) -> Any:
    """A table with the rows' keys as its heads; the columns in `right` are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def train_tables(result: dict[str, Any]) -> list[Any]:
    """Accuracies before and after, and where the run is."""
    rows = [
        {
            "dataset": f"{result[side]} ({side})",
            "before": f"{accuracy['before']:.2%}",
            f"after the {result['operator']}": f"{accuracy['after']:.2%}",
            "change, points": f"{100 * (accuracy['after'] - accuracy['before']):+.2f}",
        }
        for side, accuracy in result["accuracy"].items()
    ]
    closing = (
        f"{result['steps']} steps in {result['seconds']:.0f} s ({result['images_per_second']:.0f} images/s), "
        f"measured in {result['evaluation_seconds']:.0f} s on {result['evaluated_on']} images\n{result['run']}"
    )
    return [table_of(rows, right=tuple(rows[0])[1:]), closing]


def meta_tables(result: dict[str, Any]) -> list[Any]:
    """Accuracies of adapted networks and their sum, and where the initialisation is."""
    rows = [
        {"network": side, "alone": f"{accuracy['before']:.2%}", "in the sum": f"{accuracy['after']:.2%}"}
        for side, accuracy in result["accuracy"].items()
    ]
    closing = (
        f"on episodes of images that meta-training did not see; {result['steps']} steps in {result['seconds']:.0f} s "
        f"({result['images_per_second']:.0f} images/s), {result['peak_bytes'] / 2**30:.2f} GiB\n{result['initial']}"
    )
    return [table_of(rows, right=("alone", "in the sum")), closing]


def tasks_tables(result: dict[str, Any]) -> list[Any]:
    """Datasets, then pairs."""
    pairs = [
        {
            "pair": pair["name"],
            "summary": pair["summary"],
            "source": pair["source"],
            "recipe": ", ".join(f"{name} {value:g}" for name, value in pair["recipe"].items()).replace("_", " "),
        }
        for pair in result["pairs"]
    ]
    return [table_of(result["datasets"]), table_of(pairs)]


def learners_tables(result: dict[str, Any]) -> list[Any]:
    """Ways of training."""
    return [table_of(result["learners"])]


def methods_tables(result: dict[str, Any]) -> list[Any]:
    """Methods of merging."""
    shown = ("name", "summary", "needs", "settings", "source")
    text = lambda value: ", ".join(value) if isinstance(value, list) else value  # noqa: E731
    return [table_of([{key: text(row[key]) for key in shown} for row in result["methods"]])]


def comparison_tables(result: dict[str, Any]) -> list[Any]:
    """For each side, then for the costs: a row for each learner, mean ± standard deviation over its seeds."""
    if not result["summary"]:
        return ["every run failed", *_failures(result), result["comparison"]]
    parts: list[Any] = []
    for side in ("target", "support"):
        rows = [
            {
                "learner": row["learner"],
                **{name: with_spread(row[side][name], scale=100) for name in ("before", "after", "drop", "retention")},
            }
            for row in result["summary"]
        ]
        parts += [
            f"{result[side]} ({side}), % of {result['evaluated_on']} images",
            table_of(rows, right=tuple(rows[0])[1:]),
        ]
    costs = [
        {
            "learner": row["learner"],
            "seeds": len(row["seeds"]),
            "training, s": with_spread(row["seconds"], digits=0),
            "sum, s": with_spread(row["sum_seconds"], digits=1),
            "images/s": with_spread(row["images_per_second"], digits=0),
            "peak, GiB": with_spread(row["peak_bytes"], scale=2**-30),
        }
        for row in result["summary"]
    ]
    return [*parts, table_of(costs, right=tuple(costs[0])[1:]), *_failures(result), result["comparison"]]


def sum_tables(result: dict[str, Any]) -> list[Any]:
    """Each dataset and the union under the operator asked for, then the union under every operator."""

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:.2%}"

    *datasets, union = result["accuracy"].items()
    rows = [
        {
            "dataset": name,
            "alone": percent(accuracy["alone"]),
            f"{result['operator']}, statistics of the dataset": percent(accuracy["sum"]),
            "statistics of the union": percent(accuracy["sum_union_statistics"]),
        }
        for name, accuracy in datasets
    ]
    heads = list(rows[0])
    for label, key in (("all images", "sum_union_statistics"), ("mean of datasets", "mean_of_datasets")):
        rows.append(dict(zip(heads, (label, "", "", percent(union[1][key])), strict=True)))
    others = [
        {"operator": operator, **{name: percent(a["sum"]) for name, a in accuracies.items() if name != "union"}}
        | {"mean, union's statistics": percent(accuracies["union"]["mean_of_datasets"])}
        for operator, accuracies in result["by_operator"].items()
    ]
    return [table_of(rows, right=tuple(heads[1:])), table_of(others, right=tuple(others[0])[1:]), result["sum"]]


def experiment_tables(result: dict[str, Any]) -> list[Any]:
    """For each target, then for their union: a row for each learner, mean ± standard deviation over its seeds."""
    if not result["summary"]:
        return ["every run failed", *_failures(result), result["experiment"]]
    heads = {
        "before": "before",
        "after": f"+ {result['support']}",
        "stranger": "+ stranger",
        "retention": "retention",
        "stranger_union_statistics": "+ stranger, union's statistics",
    }
    parts: list[Any] = []
    for target in result["targets"]:
        rows = [
            {
                "learner": row["learner"],
                **{h: with_spread(row["accuracy"][target][k], scale=100) for k, h in heads.items()},
            }
            for row in result["summary"]
        ]
        parts += [f"{target}, % of {result['evaluated_on']} images", table_of(rows, right=tuple(rows[0])[1:])]
    rows = [
        {
            "learner": row["learner"],
            "all images": with_spread(row["accuracy"]["union"]["sum_union_statistics"], scale=100),
            "mean of targets": with_spread(row["accuracy"]["union"]["mean_of_datasets"], scale=100),
            "seconds": with_spread(row["seconds"], digits=0),
        }
        for row in result["summary"]
    ]
    parts += [f"union of {', '.join(result['targets'])}: one network", table_of(rows, right=tuple(rows[0])[1:])]
    return [*parts, *_failures(result), result["experiment"]]


def few_shot_tables(result: dict[str, Any]) -> list[Any]:
    """A row for each learner, then what else was asked of them."""

    def percent(accuracy: dict[str, Any]) -> str:
        return f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['interval']:.2f}"

    rows = [
        {
            "learner": row["learner"],
            "seed": row["seed"],
            "accuracy, %": percent(row["accuracy"]),
            "training, s": f"{row['seconds']:.0f}",
            "episodes/s": "–" if row["episodes_per_second"] is None else f"{row['episodes_per_second']:.1f}",
            "peak, GiB": "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}",
        }
        for row in result["rows"]
    ]
    whose, count = result["evaluated_on"], result["settings"]["episodes"]
    title = (
        f"{result['ways']}-way {result['shots']}-shot on {result['dataset']}: {count} episodes of "
        f"{result['classes'][whose]} {whose} classes, ± 95 % interval"
    )
    parts: list[Any] = [title, table_of(rows, right=tuple(rows[0])[1:])]
    for key, number, heading in (
        ("asked", "ways", "asked for another number of classes"),
        ("reparameterised", "filters", "fast weights in an untrained base network of other filters"),
    ):
        if found := result[key]:
            more = [{k: row[k] for k in ("learner", "seed", number)} | {"%": percent(row["accuracy"])} for row in found]
            parts += [heading, table_of(more, right=("seed", number, "%"))]
    if result["then"]:
        more = [
            {"learner": row["learner"], "seed": row["seed"]}
            | {
                f"{result['dataset']} before": percent(row["before"]),
                f"{result['dataset']} after": percent(row["after"]),
                f"{result['second_dataset']} before": percent(row["new_before"]),
                f"{result['second_dataset']} after": percent(row["new_after"]),
            }
            for row in result["then"]
        ]
        parts += [f"after going on with {result['second_dataset']}", table_of(more, right=tuple(more[0])[1:])]
    return [*parts, result["few_shot"]]


def sweep_tables(result: dict[str, Any]) -> list[Any]:
    """The best ten trials, or all of a sweep without a metric, and what became of the others."""
    from metasum.sweeps.page import best_trials

    finished = [row for row in result["trials"] if row["state"] == "complete"]
    name = result["metric"]["name"] if result["metric"] else None
    rows = [
        {"trial": row["place"] + 1}
        | {key: in_short(value) for key, value in row["values"].items()}
        | ({name: f"{row[name]:.4f}"} if name else {})
        | {"seconds": f"{row['trial_seconds']:.0f}"}
        for row in best_trials(result)
    ]
    failed = [f"failed: trial {row['place'] + 1}: {row['error']}" for row in result["trials"] if row["state"] == "fail"]
    early = sum(row["state"] == "pruned" for row in result["trials"])
    closing = f"{len(finished)} of {result['count']} trials finished" + (f", {early} ended early" if early else "")
    parts = [table_of(rows, right=tuple(rows[0]))] if rows else []
    return [*parts, *failed, closing, result["sweep"]]


def evaluate_tables(result: dict[str, Any]) -> list[Any]:
    """Accuracy on each dataset and on all of them."""
    rows = [{"dataset": name, "accuracy": f"{value:.2%}"} for name, value in result["accuracy"].items()]
    return [table_of(rows, right=("accuracy",)), f"{result['statistics']} statistics, {result['evaluated_on']} images"]


def _failures(result: dict[str, Any]) -> list[str]:
    return [f"failed: {Path(cell['run']).name}: {cell['error']}" for cell in result["failed"]]


def merge_tables(result: dict[str, Any]) -> list[Any]:
    """What was merged, how quickly, and where it is."""
    count = result["statistics"]
    averaged = f"{count} running means and variances were averaged: they are no weights.\n" if count else ""
    return [
        f"{result['method']} of {len(result['files'])} file(s), {result['parameters']:,} parameters, "
        f"{result['bytes'] / 1e9:.2f} GB in {result['seconds']:.1f} s, "
        f"with {result['peak_bytes'] / 2**20:.0f} MiB of memory\n{averaged}{result['output']}"
    ]
