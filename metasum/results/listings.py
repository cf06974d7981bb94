"""What there is: datasets, pairs and ways of training, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metasum.results.table import Column, Table
from metasum.results.terminal import Part
from metasum.results.upgrade import Plain


def _named(rows: Sequence[Plain], *names: str) -> Table[Plain]:
    def column(name: str) -> Column[Plain]:
        return Column(name, lambda row: str(row[name]))

    return Table([column(name) for name in names], rows)


def tasks_parts(result: Mapping[str, Sequence[Plain]]) -> list[Part]:
    """Datasets, then pairs."""
    pairs = [{**pair, "pair": pair["name"], "recipe": _recipe(pair["recipe"])} for pair in result["pairs"]]
    return [
        _named(result["datasets"], "name", "summary", "source"),
        _named(pairs, "pair", "summary", "source", "recipe"),
    ]


def learners_parts(result: Mapping[str, Sequence[Plain]]) -> list[Part]:
    """Ways of training, then those of learning from few examples (`metasum few-shot`)."""
    few_shot = [{**row, "few-shot learner": row["name"]} for row in result["few_shot"]]
    return [
        _named(result["learners"], "name", "summary", "source"),
        _named(few_shot, "few-shot learner", "summary", "source"),
    ]


def _recipe(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in recipe.items()).replace("_", " ")


def methods_parts(result: Mapping[str, Sequence[Plain]]) -> list[Part]:
    """Methods of merging."""
    rows = [{**row, **{name: ", ".join(row[name]) for name in ("needs", "settings")}} for row in result["methods"]]
    return [_named(rows, "name", "summary", "needs", "settings", "source")]
