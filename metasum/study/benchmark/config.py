"""What `metasum benchmark` takes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TypeVar

from metasum.config.choices import BACKENDS, DEVICES, MEMORY_FORMATS, PRECISIONS
from metasum.errors import UsageError, unknown
from metasum.options import Checked, option
from metasum.results.benchmark import Setting

T = TypeVar("T")

MEASUREMENTS = ("step", "optimizer", "input", "memory", "evaluation")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(Checked):
    """What `metasum benchmark` measures. Where several words are taken, they are separated by commas."""

    measure: str = option("step", f"What to measure: {', '.join(MEASUREMENTS)}; several, or all.")
    learner: str = option(
        "metasum",
        "Whose step; several, or all. metasum-meta stands for a step of meta-training.",
    )
    networks: str = option("2", "How many networks joint MetaSum trains and adds; several.")
    inner_steps: int = option(5, "Steps that each clone takes apart (metasum-meta).", unit="steps", minimum=1)
    backends: str = option(",".join(BACKENDS), "Backends to time; several.")
    usual_shapes: bool = option(True, "Time the same loss as it is usually written, too (metasum, metasum-meta).")
    width: str = option("1.0", "Factor on every channel count and hidden size; several.")
    batch_size: str = option("64", "Images of each dataset in a step; several.", unit="images")
    precision: str = option("32", f"Arithmetic of forward and backward, of {', '.join(PRECISIONS)}; several.")
    memory_format: str = option("channels-last", f"Layout in memory, of {', '.join(MEMORY_FORMATS)}; several.")
    compile: str = option("no", "Networks through torch.compile (backend torch only), of no, yes; several.")
    repeats: int = option(5, "Timed rounds; each times everything that is compared once.", minimum=1)
    device: str = option("auto", "Where to run; auto takes a GPU where there is one.", choices=DEVICES)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.measurements()
        self.settings()
        self.backend_names()

    def measurements(self) -> tuple[str, ...]:
        """Of MEASUREMENTS, what was asked for."""
        return MEASUREMENTS if self.measure == "all" else _words("measure", self.measure, MEASUREMENTS)

    def backend_names(self) -> tuple[str, ...]:
        return _words("backends", self.backends, BACKENDS, kind="backend")

    def settings(self) -> list[Setting]:
        """All combinations, widths outermost, each once."""
        widths = _numbers("width", self.width, float, above=0)
        sizes = _numbers("batch-size", self.batch_size, int, above=1)
        counts = _numbers("networks", self.networks, int, above=1)
        compiled = [word == "yes" for word in _words("compile", self.compile, ("no", "yes"))]
        formats = _words("memory-format", self.memory_format, MEMORY_FORMATS)
        precisions = _words("precision", self.precision, PRECISIONS)
        every = itertools.product(widths, sizes, counts, precisions, formats, compiled)
        return list(dict.fromkeys(Setting(*each) for each in every))


def _words(flag: str, text: str, choices: tuple[str, ...], *, kind: str | None = None) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        if word not in choices:
            raise unknown(kind or f"value for --{flag}", word, choices)
    return words


def _numbers(flag: str, text: str, kind: Callable[[str], T], *, above: float) -> list[T]:
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--{flag} takes numbers separated by commas, not {text!r}.") from error
    if not all(above < number < float("inf") for number in numbers):  # type: ignore[operator]  # T is a number
        raise UsageError(f"--{flag} takes numbers above {above:g}, not {text!r}.")
    return numbers
