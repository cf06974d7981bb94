"""A benchmark's result: what steps, updates, input, memory and evaluations cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from metasum.results.upgrade import Plain
from metasum.results.value import Result, Value


@dataclass(frozen=True)
class Setting(Value):
    """One combination of what steps are timed in."""

    width: float
    batch_size: int
    networks: int
    precision: str
    memory_format: str
    compiled: bool

    def __str__(self) -> str:
        return self.told(field.name for field in dataclasses.fields(self))

    def told(self, names: Iterable[str]) -> str:
        """The named ones of its values, in words."""
        words = {
            "width": f"width {self.width}",
            "precision": f"precision {self.precision}",
            "batch_size": f"batch {self.batch_size}",
            "networks": f"{self.networks} networks",
            "compiled": "compiled" if self.compiled else "eager",
        }
        return ", ".join(words.get(name, str(getattr(self, name))) for name in names)


NAMES = tuple(field.name for field in dataclasses.fields(Setting))


@dataclass(frozen=True)
class InSetting(Value):
    """A row that was measured in one setting; its JSON has the setting's values among its own."""

    setting: Setting

    def plain(self) -> dict[str, Any]:
        found = super().plain()
        return {**found.pop("setting"), **found}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        setting = {name: plain[name] for name in NAMES if name in plain}
        return {**{name: found for name, found in plain.items() if name not in NAMES}, "setting": setting}


@dataclass(frozen=True)
class StepRow(InSetting):
    """A learner's training step in one backend; its JSON calls the setting's batch size "batch"."""

    learner: str
    backend: str
    passes: float
    """Forward and backward passes that its arithmetic amounts to."""
    step_seconds: float
    minimum_seconds: float
    """What those passes take."""
    ratio: float
    """Of the two; `ratio_range`: the least and the greatest over the rounds."""
    ratio_range: tuple[float, float]
    to_first: float
    """The ratio to the learner's first row."""
    images_per_second: float
    operations_per_second: float
    of_matrix_rate: float
    """Their share of what a large matrix product gets done."""
    peak_bytes: int

    def plain(self) -> dict[str, Any]:
        return {{"batch_size": "batch"}.get(name, name): found for name, found in super().plain().items()}

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        return super().arranged({{"batch": "batch_size"}.get(name, name): found for name, found in plain.items()})


@dataclass(frozen=True)
class Timed(InSetting):
    """What something took, and its ratio to what it is compared with."""

    seconds: float
    ratio: float
    ratio_range: tuple[float, float]


@dataclass(frozen=True)
class SettingRow(Timed):
    """The same step in several settings; ratios are to the first."""

    what: str


@dataclass(frozen=True)
class OptimiserRow(Timed):
    """An update of all networks; ratios are to PyTorch's loop over parameters."""

    optimizer: str
    way: str


@dataclass(frozen=True)
class InputRow(InSetting):
    """Images to the device; ratios are to metasum's own way."""

    way: str
    images_per_second: float
    ratio: float
    ratio_range: tuple[float, float]
    of_step: float
    """How many times faster than the step consumes images."""


@dataclass(frozen=True)
class MemoryRow(InSetting):
    """Bytes at the peak of a step and its update, and the parts that they consist of."""

    parameters: int
    gradients: int
    optimizer_state: int
    sum: int
    activations: int
    counted: int
    measured: int
    ratio: float
    sum_forward: float
    """What a forward through the sum holds more than one through a network, in copies of the parameters."""


@dataclass(frozen=True)
class EvaluationRow(Timed):
    """An evaluation of both networks and their sum; ratios are to plain forward passes."""

    images: int
    batch_of: int


@dataclass(frozen=True)
class BenchmarkResult(Result):
    """What `metasum benchmark` found; what was not asked for has no rows."""

    kind: ClassVar[str] = "benchmark"

    rows: tuple[StepRow, ...]
    settings: tuple[SettingRow, ...]
    optimizer: tuple[OptimiserRow, ...]
    input: tuple[InputRow, ...]
    memory: tuple[MemoryRow, ...]
    evaluation: tuple[EvaluationRow, ...]
    measured: tuple[str, ...]
    device: str
    threads: int
    repeats: int
