"""Commands that look around: tasks, learners, methods."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from metasum.commands.shared import PluginCommand, json_flag, plugin_flag, root_flag
from metasum.config import options_of
from metasum.results.listings import learners_parts, methods_parts, tasks_parts
from metasum.results.terminal import show


@click.command(cls=PluginCommand)
@root_flag
@plugin_flag
@json_flag
def tasks(data_root: Path, as_json: bool) -> None:
    """List datasets and task pairs, with where each comes from."""
    from metasum.tasks.registry import PAIRS, known_datasets

    result = {
        "datasets": [
            {"name": name, "summary": summary, "source": source}
            for name, (summary, source) in known_datasets(data_root).items()
        ],
        "pairs": [{**asdict(pair), "name": pair.name} for pair in PAIRS.values()],
    }
    show(result, as_json=as_json, parts=tasks_parts)


@click.command(cls=PluginCommand)
@plugin_flag
@json_flag
def learners(as_json: bool) -> None:
    """List ways of training, then few-shot learners, with where each comes from."""
    from metasum.baselines.registry import FEW_SHOT, LEARNERS

    rows, few_shot = (
        [{"name": name, "summary": entry.summary, "source": entry.source} for name, entry in known.entries.items()]
        for known in (LEARNERS, FEW_SHOT)
    )
    show({"learners": rows, "few_shot": few_shot}, as_json=as_json, parts=learners_parts)


@click.command(cls=PluginCommand)
@plugin_flag
@json_flag
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
    show({"methods": rows}, as_json=as_json, parts=methods_parts)
