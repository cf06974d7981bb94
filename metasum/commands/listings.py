"""Commands that look around: tasks, learners, methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from metasum.commands import shared
from metasum.config import options_of
from metasum.results.table import Column, Table
from metasum.results.terminal import show

Rows = Sequence[Mapping[str, Any]]


def _table(rows: Rows, *names: str, head: str = "name") -> Table[Mapping[str, Any]]:
    """The name, under a head of its own, the summary and what else is asked for; a list is told with commas."""

    def column(name: str, head: str) -> Column[Mapping[str, Any]]:
        return Column(head, lambda row: ", ".join(row[name]) if isinstance(row[name], list) else str(row[name]))

    return Table([column("name", head), *(column(name, name) for name in ("summary", *names))], rows)


@click.command(cls=shared.PluginCommand)
@shared.root_flag
@shared.plugin_flag
@shared.json_flag
def tasks(data_root: Path, as_json: bool) -> None:
    """List datasets and task pairs, with where each comes from."""
    from metasum.tasks.registry import PAIRS, known_datasets

    datasets = [
        {"name": name, "summary": summary, "source": source}
        for name, (summary, source) in known_datasets(data_root).items()
    ]
    pairs = [{**asdict(pair), "name": pair.name} for pair in PAIRS.values()]

    told = [{**pair, "recipe": [_words(*setting) for setting in pair["recipe"].items()]} for pair in pairs]
    tables = [_table(datasets, "source"), _table(told, "source", "recipe", head="pair")]
    show({"datasets": datasets, "pairs": pairs}, as_json=as_json, parts=lambda _: tables)


def _words(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:g}"


@click.command(cls=shared.PluginCommand)
@shared.plugin_flag
@shared.json_flag
def learners(as_json: bool) -> None:
    """List ways of training, then few-shot learners, with where each comes from."""
    from metasum.baselines.registry import FEW_SHOT, LEARNERS

    rows, few_shot = (
        [{"name": name, "summary": entry.summary, "source": entry.source} for name, entry in known.entries.items()]
        for known in (LEARNERS, FEW_SHOT)
    )
    tables = [_table(rows, "source"), _table(few_shot, "source", head="few-shot learner")]
    show({"learners": rows, "few_shot": few_shot}, as_json=as_json, parts=lambda _: tables)


@click.command(cls=shared.PluginCommand)
@shared.plugin_flag
@shared.json_flag
def methods(as_json: bool) -> None:
    """List methods of merging, with what each needs and leaves open.

    Those that need no more than files are methods of `metasum merge`; all are operators of `metasum sum`.
    """
    from metasum.merging import METHODS

    rows = [
        {
            "name": name,
            "summary": method.summary,
            "needs": method.needs(),
            "settings": [setting.name for setting in options_of(method.Config)],
            "paper": method.paper,
            "source": METHODS.entries[name].source,
        }
        for name, method in METHODS.items()
    ]
    show({"methods": rows}, as_json=as_json, parts=lambda _: [_table(rows, "needs", "settings", "source")])
