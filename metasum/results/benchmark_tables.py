"""The tables of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from metasum.results.benchmark import (
    NAMES,
    BenchmarkResult,
    EvaluationRow,
    InputRow,
    InSetting,
    MemoryRow,
    OptimiserRow,
    SettingRow,
    StepRow,
    Timed,
)
from metasum.results.table import HUNDREDTHS, MEBIBYTES, NUMBER, TENTHS, WHOLE, Column, Kind, Table
from metasum.results.terminal import Part

R = TypeVar("R", bound=InSetting)
Ratio: TypeAlias = StepRow | Timed | InputRow

THOUSANDTHS, THREE, FOUR = Kind(".3f"), Kind(".3g"), Kind(".4g")


def benchmark_parts(result: BenchmarkResult) -> list[Part]:
    """A title and a table for each thing that was measured."""
    tables = (
        _steps(result.rows),
        _settings(result.settings),
        _optimisers(result.optimizer),
        _inputs(result.input),
        _memory(result.memory),
        _evaluations(result.evaluation),
    )
    head = f"{result.device}, {result.threads} threads, medians of {result.repeats} rounds (range)"
    return [head, *(table for table in tables if table.rows)]


def _table(columns: Sequence[Column[R]], rows: Sequence[R], title: str, *, common: str = "") -> Table[R]:
    """The columns behind one with what varies in the setting; what does not is said once, in the title."""
    if not rows:
        return Table(columns, rows)
    varied = [name for name in NAMES if len({getattr(row.setting, name) for row in rows}) > 1]
    same = rows[0].setting.told(name for name in NAMES if name not in varied)
    setting: list[Column[R]] = [Column("setting", lambda row: row.setting.told(varied))] if varied else []
    return Table([*setting, *columns], rows, f"{title}; {common}{same}")


def _ratio(row: Ratio) -> str:
    low, high = row.ratio_range
    return f"{row.ratio:.3f} ({low:.2f}–{high:.2f})"


def _steps(rows: Sequence[StepRow]) -> Table[StepRow]:
    one = len({row.learner for row in rows}) == 1
    learner: list[Column[StepRow]] = [] if one else [Column("learner", lambda row: row.learner)]
    return _table(
        [
            *learner,
            Column("backend", lambda row: row.backend),
            Column("passes", lambda row: row.passes, HUNDREDTHS),
            Column("step, s", lambda row: row.step_seconds, THREE),
            Column("ratio", _ratio, NUMBER),
            Column("to first", lambda row: row.to_first, THOUSANDTHS),
            Column("images/s", lambda row: row.images_per_second, WHOLE),
        ],
        rows,
        "training steps (forward and backward) against the plain passes that they amount to",
        common=f"{rows[0].learner}, " if one else "",
    )


def _settings(rows: Sequence[SettingRow]) -> Table[SettingRow]:
    return _table(
        [
            Column("what", lambda row: row.what),
            Column("seconds", lambda row: row.seconds, FOUR),
            Column("ratio", _ratio, NUMBER),
        ],
        rows,
        "settings beside one another",
    )


def _optimisers(rows: Sequence[OptimiserRow]) -> Table[OptimiserRow]:
    return _table(
        [
            Column("optimizer", lambda row: row.optimizer),
            Column("way", lambda row: row.way),
            Column("seconds", lambda row: row.seconds, FOUR),
            Column("ratio", _ratio, NUMBER),
        ],
        rows,
        "an update of all networks, against PyTorch's loop over parameters",
    )


def _inputs(rows: Sequence[InputRow]) -> Table[InputRow]:
    return _table(
        [
            Column("way", lambda row: row.way),
            Column("images/s", lambda row: row.images_per_second, WHOLE),
            Column("time", _ratio, NUMBER),
            Column("times the step's need", lambda row: row.of_step, TENTHS),
        ],
        rows,
        "images to the device, nothing else being done; against metasum's own way",
    )


def _memory(rows: Sequence[MemoryRow]) -> Table[MemoryRow]:
    return _table(
        [
            Column("weights and update", lambda row: row.parameters + row.gradients + row.optimizer_state, MEBIBYTES),
            Column("sum", lambda row: row.sum, MEBIBYTES),
            Column("activations", lambda row: row.activations, MEBIBYTES),
            Column("counted", lambda row: row.counted, MEBIBYTES),
            Column("measured", lambda row: row.measured, MEBIBYTES),
            Column("ratio", lambda row: row.ratio, HUNDREDTHS),
            Column("the sum's forward, copies", lambda row: row.sum_forward, HUNDREDTHS),
        ],
        rows,
        "joint MetaSum's step and update at its peak, MiB",
    )


def _evaluations(rows: Sequence[EvaluationRow]) -> Table[EvaluationRow]:
    return _table(
        [
            Column("images", lambda row: row.images, NUMBER),
            Column("images/s", lambda row: row.images / row.seconds, WHOLE),
            Column("ratio", _ratio, NUMBER),
        ],
        rows,
        "an evaluation of both networks and their sum, against plain forward passes",
    )
