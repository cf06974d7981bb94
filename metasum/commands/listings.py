"""Commands that look around: tasks, learners, methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import click

from metasum.commands import shared
from metasum.config import options_of
from metasum.results.table import Column, Table
from metasum.results.terminal import Part, show

if TYPE_CHECKING:
    from metasum.config import Option
    from metasum.registry import Registry

Rows = Sequence[Mapping[str, Any]]
WIDTH = 79
OWN = "metasum"  # what needs no word on where it comes from
IMPLIED = ("whole tensors", "the networks", "the task of each input")  # said of a group, or of interest to files only


def _table(rows: Rows, *names: str, head: str = "name", title: str = "") -> Table[Mapping[str, Any]]:
    """The name, under a head of its own, the summary and what else is asked for; a list is told with commas."""

    def column(name: str, head: str) -> Column[Mapping[str, Any]]:
        return Column(head, lambda row: ", ".join(row[name]) if isinstance(row[name], list) else str(row[name]))

    return Table([column("name", head), *(column(name, name) for name in ("summary", *names))], rows, title)


def _listed(rows: Rows, *names: str, title: str) -> Table[Mapping[str, Any]]:
    """The same, with where things come from only if one of them is a plug-in's."""
    source = ["source"] if any(row["source"] != OWN for row in rows) else []
    return _table(rows, *names, *source, title=title)


def _names(rows: Rows) -> str:
    """Names alone, a plug-in's with where it comes from."""
    told = (row["name"] if row["source"] == OWN else f"{row['name']} ({row['source']})" for row in rows)
    return fill(", ".join(told), WIDTH, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False) + "\n"


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
    """List learners by groups, then few-shot learners.

    A learner is a way of training, or a method of merging what was trained (`metasum methods` says what they do).
    `--learners` of compare-baselines and experiment takes names, and those of groups, with commas between.
    """
    from metasum.baselines.registry import ANCHORED, ANCHORS, FEW_SHOT, GROUPS, LEARNERS, TRAINED

    def told(known: Registry[Any]) -> list[dict[str, Any]]:
        entries = known.entries.items()
        return [{"name": name, "summary": entry.summary, "source": entry.source} for name, entry in entries]

    few_shot = told(FEW_SHOT)
    rows = [
        row | {"group": known.entries[row["name"]].group or TRAINED}
        for known in (LEARNERS, ANCHORS)
        for row in told(known)
    ]
    parts: list[Part] = []
    for name, words in GROUPS.items():
        own, title = [row for row in rows if row["group"] == name], f"--learners {name}: {words}"
        merging = name not in (TRAINED, ANCHORED)  # `metasum methods` tells of these
        parts += [title, _names(own)] if merging else [_listed(own, title=title)]
    parts.append("`metasum methods` says what is done to those that are merged.\n")
    parts.append(_listed(few_shot, title="metasum few-shot --learner NAME: learning from few examples"))
    show({"learners": rows, "few_shot": few_shot}, as_json=as_json, parts=lambda _: parts)


@click.command(cls=shared.PluginCommand)
@click.argument("names", nargs=-1, metavar="[METHOD]…")
@shared.plugin_flag
@shared.json_flag
def methods(names: tuple[str, ...], as_json: bool) -> None:
    """List methods of merging by what they are for; of METHOD, everything about it.

    Those that need no more than files are methods of `metasum merge`; all are operators of `metasum sum`.
    """
    from metasum.merging import GROUPS, METHODS

    chosen = {name: METHODS.named(name) for name in names} or METHODS
    rows = [
        {
            "name": name,
            "summary": method.summary,
            "group": method.group(),
            "needs": method.needs(),
            "settings": [setting.name for setting in options_of(method.Config)],
            "paper": method.paper,
            "source": METHODS.entries[name].source,
        }
        for name, method in chosen.items()
    ]
    parts: list[Part]
    if names:
        parts = [part for row in rows for part in _about(row, options_of(chosen[str(row["name"])].Config))]
    else:
        short = [row | {"needs": [own for own in row["needs"] if own not in IMPLIED]} for row in rows]
        grouped = {words: [row for row in short if row["group"] == name] for name, words in GROUPS.items()}
        parts = [_listed(own, "needs", title=f"{words[0].upper()}{words[1:]}") for words, own in grouped.items()]
        parts.append("`metasum methods NAME` tells a method's settings, its paper, and all that it needs.")
    show({"methods": rows}, as_json=as_json, parts=lambda _: parts)


def _about(row: Mapping[str, Any], settings: Sequence[Option]) -> list[Part]:
    """One method at length: what it does and needs, its paper, and its settings."""
    needs = f"Needs {', '.join(row['needs'])}." if row["needs"] else ""
    told = [f"{row['name']}: {row['summary']}", needs, row["paper"], "" if row["source"] == OWN else row["source"]]
    columns: Sequence[Column[Option]] = (
        Column("setting", lambda leaf: leaf.flag),
        Column("what it is", lambda leaf: str(leaf.metadata["help"])),
        Column("default", lambda leaf: "" if leaf.default is None else str(leaf.default)),
    )
    return [*filter(None, told), Table(columns, settings)] if settings else [*filter(None, told), ""]
