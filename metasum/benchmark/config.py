"""What `metasum benchmark` takes. No PyTorch here."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

from metasum.config import Checked, option
from metasum.config.words import Backend, Device, MemoryFormat, Precision, installed_backends
from metasum.results.benchmark import Setting

MEASUREMENTS = ("step", "optimizer", "input", "memory", "evaluation")
Measurement = Literal["step", "optimizer", "input", "memory", "evaluation", "all"]

_OF_ALL = frozenset({"measure", "width", "memory_format", "device"})
READ: dict[str, frozenset[str]] = {
    "step": _OF_ALL
    | {"learner", "networks", "backends", "usual_shapes", "batch_size", "precision", "compile", "repeats"},
    "optimizer": _OF_ALL | {"networks", "repeats"},
    "input": _OF_ALL | {"networks", "batch_size", "precision", "compile", "repeats"},
    "memory": _OF_ALL | {"networks", "batch_size", "precision", "compile"},
    "evaluation": _OF_ALL | {"precision", "repeats"},
}
"""Settings that change what each measurement finds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Checked):
    """What is measured, and in which settings. Where several values are taken, all combinations are measured."""

    measure: tuple[Measurement, ...] = option(("step",), "What to measure; several, or all.")
    learner: tuple[str, ...] = option(
        ("metasum",),
        "Whose step; several, or all (`metasum learners`). Of one with a meta-learnt start, a step of meta-training.",
    )
    networks: tuple[int, ...] = option((2,), "How many networks joint MetaSum trains and adds; several.", minimum=2)
    backends: tuple[Backend, ...] = option(installed_backends(), "Backends to time; several.")
    usual_shapes: bool = option(
        True, "Time the same loss as it is usually written, too (joint MetaSum and meta-training, at their defaults)."
    )
    width: tuple[float, ...] = option((1.0,), "Factor on every channel count and hidden size; several.", above=0)
    batch_size: tuple[int, ...] = option((64,), "Images of each dataset in a step; several.", unit="images", minimum=2)
    precision: tuple[Precision, ...] = option(("32",), "Arithmetic of forward and backward; several.")
    memory_format: tuple[MemoryFormat, ...] = option(("channels-last",), "Layout in memory; several.")
    compile: tuple[Literal["no", "yes"], ...] = option(
        ("no",), "Networks through torch.compile (backend torch only); several."
    )
    repeats: int = option(5, "Timed rounds; each times everything that is compared once.", minimum=1)
    device: Device = option("auto", "Where to run; auto takes a GPU where there is one.")

    def measurements(self) -> tuple[str, ...]:
        """What was asked for, each once."""
        return MEASUREMENTS if "all" in self.measure else tuple(dict.fromkeys(self.measure))

    def settings(self) -> tuple[Setting, ...]:
        """All combinations, widths outermost, each once."""
        compiled = [word == "yes" for word in self.compile]
        every = itertools.product(
            self.width, self.batch_size, self.networks, self.precision, self.memory_format, compiled
        )
        return tuple(dict.fromkeys(Setting(*each) for each in every))
