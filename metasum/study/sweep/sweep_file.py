"""W&B's sweep files: what they say, checked before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasum.errors import UsageError, reason, unknown
from metasum.study.sweep.distributions import Parameter, parameter

METHODS = ("grid", "random", "bayes")
RUN_FOLDERS = {"train": "*+*/*", "meta-train": "meta/*"}
"""The commands that can be swept, and where below `--out` their run folders are."""


@dataclass(frozen=True)
class Metric:
    """What is looked for."""

    name: str
    goal: str = "minimize"
    target: float | None = None
    """Good enough: no trial is begun once one has reached it."""

    def better(self, first: float, second: float) -> bool:
        """Whether `first` is better than `second`."""
        return first > second if self.goal == "maximize" else first < second


@dataclass(frozen=True)
class Halving:
    """W&B's hyperband: at `first`, `first`·eta, … evaluations only the best 1/eta of the trials go on."""

    first: int
    eta: int


@dataclass(frozen=True)
class SweepFile:
    """One sweep."""

    name: str
    question: str
    """The comment at the file's head."""
    command: tuple[str, ...]
    """What comes after `metasum`, `${args}` among it."""
    method: str
    metric: Metric | None
    parameters: tuple[Parameter, ...]
    halving: Halving | None
    cap: int | None
    """Most runs, where the file says so."""
    checksum: str

    @property
    def grid_size(self) -> int | None:
        """How many combinations there are; None for the other methods."""
        if self.method != "grid":
            return None
        return math.prod(len(parameter.choices or ()) for parameter in self.parameters)

    def combination(self, number: int) -> dict[str, Any]:
        """The grid's combination `number`, the last parameter moving fastest."""
        choices = [parameter.choices or () for parameter in self.parameters]
        found = next(itertools.islice(itertools.product(*choices), number, None))
        return {parameter.name: value for parameter, value in zip(self.parameters, found, strict=True)}

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """The command's arguments with these values, written as W&B's agent writes them."""
        written = [f"--{name}={value}" for name, value in values.items()]
        return [word for part in self.command for word in (written if part == "${args}" else [part])]


def read_sweep_file(path: Path) -> SweepFile:
    """Reads and checks a sweep file.

    Raises:
        UsageError: it is not there, is no YAML, or asks for something that cannot be done here.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        asked = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or reason(error)}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(asked, dict):
        raise UsageError(f"{path} is not a sweep file: it holds no method and parameters.")
    known = {"command", "method", "metric", "parameters", "early_terminate", "run_cap"}
    ignored = {"name", "description", "program", "project", "entity", "job"}  # about W&B's server, or `command` says it
    for key in asked:
        if key not in known | ignored:
            raise unknown(f"key in {path.name}", str(key), known | ignored)
    question = " ".join(line.lstrip("# ") for line in itertools.takewhile(_is_prose, text.splitlines()))
    method = asked.get("method")
    if method not in METHODS:
        raise unknown(f"method in {path.name}", str(method), METHODS)
    metric = _metric(asked.get("metric"))
    if metric is None and (method == "bayes" or "early_terminate" in asked):
        raise UsageError(f"{path.name} has no metric; method bayes and early_terminate need one.")
    parameters = asked.get("parameters")
    if not isinstance(parameters, dict) or not all(isinstance(value, dict) for value in parameters.values()):
        raise UsageError(f"{path.name} has no parameters, each with value, values or a distribution.")
    found = tuple(parameter(str(name), value) for name, value in parameters.items())
    for one in found if method == "grid" else ():
        if one.choices is None:
            raise UsageError(f"parameter {one.name!r}: a grid needs values, a range of integers, or q_uniform.")
    return SweepFile(
        name=path.stem,
        question=question,
        command=_command(path.name, asked.get("command")),
        method=method,
        metric=metric,
        parameters=found,
        halving=_halving(asked.get("early_terminate")),
        cap=_cap(asked.get("run_cap")),
        checksum=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def _is_prose(line: str) -> bool:
    """Whether a line is a comment that is read, not a command to be typed."""
    return line.startswith("#") and not line.startswith("#   ")


def _metric(asked: Any) -> Metric | None:
    if asked is None:
        return None
    if not isinstance(asked, dict) or "name" not in asked or set(asked) - {"name", "goal", "target"}:
        raise UsageError("a sweep's metric has a name, a goal (minimize or maximize) and, perhaps, a target.")
    try:
        target = None if asked.get("target") is None else float(asked["target"])
    except (TypeError, ValueError) as error:
        raise UsageError(f"the metric's target is {asked['target']!r}, not a number.") from error
    metric = Metric(asked["name"], asked.get("goal", "minimize"), target)
    if metric.goal not in ("minimize", "maximize"):
        raise unknown("goal", str(metric.goal), ("minimize", "maximize"))
    return metric


def _command(name: str, asked: Any) -> tuple[str, ...]:
    """What follows `metasum`; `${env}` before it is nothing here."""
    words = [str(word) for word in asked] if isinstance(asked, list) else []
    words = [word for word in words if word != "${env}"]
    if words[:1] != ["metasum"] or (words[1:2] or [""])[0] not in RUN_FOLDERS:
        known = " or ".join(f"metasum {command}" for command in RUN_FOLDERS)
        raise UsageError(f"the command of {name} is not {known}: only these can be swept here.")
    strange = [word for word in words if word.startswith("${") and word != "${args}"]
    if strange or words.count("${args}") != 1:
        problem = f"knows {strange[0]}" if strange else "does not have ${args} once"
        raise UsageError(f"the command of {name} {problem}; here it takes ${{args}} alone, and that once.")
    return tuple(words[1:])


def _halving(asked: Any) -> Halving | None:
    if asked is None:
        return None
    if not isinstance(asked, dict) or asked.get("type") != "hyperband":
        raise UsageError("early_terminate knows the type hyperband only.")
    if surplus := sorted(set(asked) - {"type", "min_iter", "max_iter", "s", "eta", "strict"}):
        raise UsageError(f"early_terminate: unknown key {surplus[0]!r}.")
    numbers = {"eta": 3} | {name: asked[name] for name in ("min_iter", "max_iter", "s", "eta") if name in asked}
    if wrong := [name for name, number in numbers.items() if not isinstance(number, int)]:
        raise UsageError(f"early_terminate: {wrong[0]} must be an integer, not {numbers[wrong[0]]!r}.")
    eta = numbers["eta"]
    if eta < 2:
        raise UsageError(f"early_terminate: eta must be at least 2, not {eta}.")
    if "min_iter" in numbers:
        return Halving(max(1, numbers["min_iter"]), eta)
    if not {"max_iter", "s"} <= set(numbers):
        raise UsageError("early_terminate needs min_iter, or max_iter and s.")
    return Halving(max(1, numbers["max_iter"] // eta ** numbers["s"]), eta)


def _cap(asked: Any) -> int | None:
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise UsageError(f"run_cap must be a number of runs, not {asked!r}.")
    return asked
