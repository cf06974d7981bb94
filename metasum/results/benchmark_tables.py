"""The tables of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metasum.results.benchmark import NAMES, BenchmarkResult, InSetting, StepRow
from metasum.results.table import HUNDREDTHS, MEBIBYTES, NUMBER, TENTHS, WHOLE, Column, Kind, Table, attributes
from metasum.results.terminal import Part


def _ratio(row: Any) -> str:
    low, high = row.ratio_range
    return f"{row.ratio:.3f} ({low:.2f}–{high:.2f})"


SECONDS = attributes("seconds", kind=Kind(".4g"))
RATIO: Column[Any] = Column("ratio", _ratio, NUMBER)
PER_SECOND: Column[Any] = Column("images/s", lambda row: row.images_per_second, WHOLE)

STEPS: list[Column[Any]] = [
    *attributes("backend"),
    *attributes("passes", kind=HUNDREDTHS),
    Column("step, s", lambda row: row.step_seconds, Kind(".3g")),
    RATIO,
    Column("to first", lambda row: row.to_first, Kind(".3f")),
    PER_SECOND,
]
MEMORY: list[Column[Any]] = [
    Column("weights and update", lambda row: row.parameters + row.gradients + row.optimizer_state, MEBIBYTES),
    *attributes("sum", "activations", "counted", "measured", kind=MEBIBYTES),
    *attributes("ratio", kind=HUNDREDTHS),
    Column("the sum's forward, copies", lambda row: row.sum_forward, HUNDREDTHS),
]
TABLES: dict[str, tuple[str, list[Column[Any]]]] = {
    "rows": ("training steps (forward and backward) against the plain passes that they amount to", STEPS),
    "settings": ("settings beside one another", [*attributes("what"), *SECONDS, RATIO]),
    "optimizer": (
        "an update of all networks, against PyTorch's loop over parameters",
        [*attributes("optimizer", "way"), *SECONDS, RATIO],
    ),
    "input": (
        "images to the device, nothing else being done; against metasum's own way",
        [
            *attributes("way"),
            PER_SECOND,
            Column("time", _ratio, NUMBER),
            Column("times the step's need", lambda row: row.of_step, TENTHS),
        ],
    ),
    "memory": ("joint MetaSum's step and update at its peak, MiB", MEMORY),
    "evaluation": (
        "an evaluation of both networks and their sum, against plain forward passes",
        [*attributes("images", kind=NUMBER), Column("images/s", lambda row: row.images / row.seconds, WHOLE), RATIO],
    ),
}
"""By the name of the result's rows: a title and columns."""


def benchmark_parts(result: BenchmarkResult) -> list[Part]:
    """A title and a table for each thing that was measured."""
    tables = [
        _table(rows, title, columns) for name, (title, columns) in TABLES.items() if (rows := getattr(result, name))
    ]
    return [f"{result.device}, {result.threads} threads, medians of {result.repeats} rounds (range)", *tables]


def _table(rows: Sequence[InSetting], title: str, columns: Sequence[Column[Any]]) -> Table[Any]:
    """The columns behind those that vary, learner and setting; what does not vary is said once, in the title."""
    varied = [name for name in NAMES if len({getattr(row.setting, name) for row in rows}) > 1]
    setting: list[Column[Any]] = [Column("setting", lambda row: row.setting.told(varied))] if varied else []
    same = rows[0].setting.told(name for name in NAMES if name not in varied)
    learners = {row.learner for row in rows if isinstance(row, StepRow)}
    if len(learners) > 1:
        setting += attributes("learner")
    elif learners:
        same = f"{learners.pop()}, {same}"
    return Table([*setting, *columns], rows, f"{title}; {same}")
