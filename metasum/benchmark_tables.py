"""What `metasum benchmark` found, as tables."""

from __future__ import annotations

import dataclasses
from typing import Any

from metasum.config.benchmark import Setting
from metasum.tables import table_of

WORDS = {"learner", "backend", "setting", "what", "way", "optimizer"}


def benchmark_tables(result: dict[str, Any]) -> list[Any]:
    """A title and a table for each thing that was measured."""
    parts: list[Any] = [
        f"{result['device']}, {result['threads']} threads, medians of {result['repeats']} rounds (range)"
    ]
    for name, title, rows in (
        (
            "rows",
            "training steps (forward and backward) against the plain passes that they amount to",
            _steps,
        ),
        ("settings", "settings beside one another", _settings),
        ("optimizer", "an update of all networks, against PyTorch's loop over parameters", _optimisers),
        ("input", "images to the device, nothing else being done; against metasum's own way", _inputs),
        ("memory", "joint MetaSum's step and update at its peak, MiB", _memory),
        ("evaluation", "an evaluation of both networks and their sum, against plain forward passes", _evaluations),
    ):
        if result[name]:
            found = [rows(row) for row in result[name]]
            if len({row["setting"] for row in found}) == 1:  # said once is enough
                title += f"; {found[0]['setting']}"
                found = [{key: value for key, value in row.items() if key != "setting"} for row in found]
            parts += [title, table_of(found, right=tuple(key for key in found[0] if key not in WORDS))]
    return parts


def _setting(row: dict[str, Any]) -> str:
    return str(Setting(**{field.name: row[field.name] for field in dataclasses.fields(Setting)}))


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["ratio_range"]
    return f"{row['ratio']:.3f} ({low:.3f} to {high:.3f})"


def _steps(row: dict[str, Any]) -> dict[str, str]:
    return {
        "learner": row["learner"],
        "backend": row["backend"],
        "setting": _setting({**row, "batch_size": row["batch"]}),
        "passes": f"{row['passes']:.2f}",
        "step, s": f"{row['step_seconds']:.4g}",
        "ratio": _ratio(row),
        "to the first": f"{row['to_first']:.3f}",
        "images/s": f"{row['images_per_second']:.0f}",
        "GFLOP/s": f"{row['operations_per_second'] / 1e9:.0f}",
        "of a matrix product's": f"{row['of_matrix_rate']:.0%}",
        "peak, GiB": f"{row['peak_bytes'] / 2**30:.2f}",
    }


def _settings(row: dict[str, Any]) -> dict[str, str]:
    return {"what": row["what"], "setting": _setting(row), "seconds": f"{row['seconds']:.4g}", "ratio": _ratio(row)}


def _optimisers(row: dict[str, Any]) -> dict[str, str]:
    return {
        "optimizer": row["optimizer"],
        "way": row["way"],
        "setting": _setting(row),
        "seconds": f"{row['seconds']:.4g}",
        "ratio": _ratio(row),
    }


def _inputs(row: dict[str, Any]) -> dict[str, str]:
    return {
        "way": row["way"],
        "setting": _setting(row),
        "images/s": f"{row['images_per_second']:.0f}",
        "time": _ratio(row),
        "times the step's need": f"{row['of_step']:.1f}",
    }


def _memory(row: dict[str, Any]) -> dict[str, str]:
    parts = ("parameters", "gradients", "optimizer_state", "sum", "activations", "counted", "measured")
    return {
        "setting": _setting(row),
        **{name.replace("_", " "): f"{row[name] / 2**20:.0f}" for name in parts},
        "ratio": f"{row['ratio']:.2f}",
        "the sum's forward, copies": f"{row['sum_forward']:.2f}",
    }


def _evaluations(row: dict[str, Any]) -> dict[str, str]:
    return {
        "setting": _setting(row),
        "images": str(row["images"]),
        "images/s": f"{row['images'] / row['seconds']:.0f}",
        "ratio": _ratio(row),
    }
