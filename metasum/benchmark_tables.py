"""What `metasum benchmark` found, as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from metasum.config.benchmark import Setting
from metasum.tables import table_of

WORDS = {"learner", "backend", "setting", "what", "way", "optimizer"}
NAMES = [field.name for field in dataclasses.fields(Setting)]


def benchmark_tables(result: dict[str, Any]) -> list[Any]:
    """A title and a table for each thing that was measured."""
    parts: list[Any] = [
        f"{result['device']}, {result['threads']} threads, medians of {result['repeats']} rounds (range)"
    ]
    for name, title, rows in (
        ("rows", "training steps (forward and backward) against the plain passes that they amount to", _steps),
        ("settings", "settings beside one another", _settings),
        ("optimizer", "an update of all networks, against PyTorch's loop over parameters", _optimisers),
        ("input", "images to the device, nothing else being done; against metasum's own way", _inputs),
        ("memory", "joint MetaSum's step and update at its peak, MiB", _memory),
        ("evaluation", "an evaluation of both networks and their sum, against plain forward passes", _evaluations),
    ):
        if result[name]:
            found, common = _told(result[name], rows)
            numbers = tuple(key for key in found[0] if key not in WORDS)
            parts += [f"{title}; {common}", table_of(found, right=numbers)]
    return parts


def _told(
    rows: list[dict[str, Any]], told: Callable[[dict[str, Any]], dict[str, str]]
) -> tuple[list[dict[str, str]], str]:
    """A table's rows, and what they have in common, which is said once: most of the setting, perhaps the learner."""
    each = [
        Setting(**{name: row["batch" if name == "batch_size" and "batch" in row else name] for name in NAMES})
        for row in rows
    ]
    varied = [name for name in NAMES if len({getattr(setting, name) for setting in each}) > 1]
    common, found = each[0].told(name for name in NAMES if name not in varied), [told(row) for row in rows]
    if len({row.get("learner") for row in rows}) == 1 and "learner" in rows[0]:
        common = f"{rows[0]['learner']}, {common}"
        found = [{key: value for key, value in row.items() if key != "learner"} for row in found]
    if varied:
        found = [{"setting": setting.told(varied), **row} for setting, row in zip(each, found, strict=True)]
    return found, common


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["ratio_range"]
    return f"{row['ratio']:.3f} ({low:.2f}–{high:.2f})"


def _steps(row: dict[str, Any]) -> dict[str, str]:
    return {
        "learner": row["learner"],
        "backend": row["backend"],
        "passes": f"{row['passes']:.2f}",
        "step, s": f"{row['step_seconds']:.3g}",
        "ratio": _ratio(row),
        "to first": f"{row['to_first']:.3f}",
        "images/s": f"{row['images_per_second']:.0f}",
    }


def _settings(row: dict[str, Any]) -> dict[str, str]:
    return {"what": row["what"], "seconds": f"{row['seconds']:.4g}", "ratio": _ratio(row)}


def _optimisers(row: dict[str, Any]) -> dict[str, str]:
    return {
        "optimizer": row["optimizer"],
        "way": row["way"],
        "seconds": f"{row['seconds']:.4g}",
        "ratio": _ratio(row),
    }


def _inputs(row: dict[str, Any]) -> dict[str, str]:
    return {
        "way": row["way"],
        "images/s": f"{row['images_per_second']:.0f}",
        "time": _ratio(row),
        "times the step's need": f"{row['of_step']:.1f}",
    }


def _memory(row: dict[str, Any]) -> dict[str, str]:
    return {
        "weights and update": _mebibytes(row["parameters"] + row["gradients"] + row["optimizer_state"]),
        **{name: _mebibytes(row[name]) for name in ("sum", "activations", "counted", "measured")},
        "ratio": f"{row['ratio']:.2f}",
        "the sum's forward, copies": f"{row['sum_forward']:.2f}",
    }


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f}"


def _evaluations(row: dict[str, Any]) -> dict[str, str]:
    return {
        "images": str(row["images"]),
        "images/s": f"{row['images'] / row['seconds']:.0f}",
        "ratio": _ratio(row),
    }
