"""W&B's sweep files: what they say, checked before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasum.errors import UsageError, reason, shown, unknown
from metasum.results.sweep import Metric
from metasum.sweeps.distributions import Parameter, number, parameter
from metasum.sweeps.hyperband import Hyperband, hyperband

METHODS = ("grid", "random", "bayes")
KEYS = ("command", "method", "metric", "parameters", "early_terminate", "run_cap")
SERVICE = {"kind": ("sweep",), "controller": ("cloud", "local"), "scheduler": ("wandb",)}
"""Keys about who runs W&B's service, with the words that it has for them; they change nothing here."""
FREE = ("name", "description", "program", "project", "entity", "job", "image_uri", "apiVersion")
"""Keys that change nothing here, whatever they say; `command` says again what `program` does."""
MOST_VALUES = 300_000
"""In a file; a parameter with a hundred thousand values is meant seriously."""
LONGEST = 500
"""Characters of what somebody else says of a file."""
READING = 2
"""Counted up where the same file is read as another sweep than before, so that none is continued as another one."""
RUN_FOLDERS = {"train": "*+*/*", "meta-train": "meta/*"}
"""The commands that can be swept, and where below `--out` their run folders are."""


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
    target: float | None
    """A good enough value of it: no trial is begun once one has reached it."""
    parameters: tuple[Parameter, ...]
    early_end: Hyperband | None
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
        """The grid's combination `number`; as in W&B's, names are in alphabetical order, and the last moves fastest."""
        ordered, found = sorted(self.parameters, key=lambda parameter: parameter.name), {}
        for one in reversed(ordered):  # counted, not listed: a range may hold more than there is memory
            number, place = divmod(number, len(one.choices or ()))
            found[one.name] = (one.choices or ())[place]
        return {one.name: found[one.name] for one in ordered}

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """The command's arguments with these values, written as W&B's agent writes them."""
        written = [f"--{name}={value}" for name, value in values.items()]
        return [word for part in self.command for word in (written if part == "${args}" else [part])]


def read_sweep_file(path: Path) -> SweepFile:
    """Reads and checks a sweep file.

    Raises:
        UsageError: it is not there, is no YAML, or asks for something that cannot be done here.
    """
    text, asked = _yaml(path)
    for key in asked:
        if key not in (*KEYS, *SERVICE, *FREE):
            raise unknown(f"key in {path.name}", key, (*KEYS, *SERVICE, *FREE))
    _check_service(path.name, asked)
    method = asked.get("method")
    if method not in METHODS:
        raise unknown(f"method in {path.name}", _word(method), METHODS)
    metric, target = _metric(asked.get("metric"))
    if metric is None and (method == "bayes" or "early_terminate" in asked):
        raise UsageError(f"{path.name} has no metric; method bayes and early_terminate need one.")
    return SweepFile(
        name=path.stem,
        question=" ".join(line.lstrip("# ") for line in itertools.takewhile(_is_prose, text.splitlines())),
        command=_command(path.name, asked.get("command")),
        method=method,
        metric=metric,
        target=target,
        parameters=_parameters(path.name, asked.get("parameters"), grid=method == "grid"),
        early_end=hyperband(asked.get("early_terminate")),
        cap=_cap(asked.get("run_cap")),
        checksum=hashlib.sha256(f"{READING} {text}".encode()).hexdigest()[:16],
    )


def _yaml(path: Path) -> tuple[str, dict[str, Any]]:
    """The file's text and what it holds."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _check_amount(path, node)
        asked = None if node is None else loader.construct_document(node)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or reason(error)}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())[:LONGEST]}.") from error
    except (ValueError, RecursionError) as error:  # a date that there is not, a number of 5,000 digits, a deep nest
        raise UsageError(f"{path} is not a sweep file ({reason(error)[:LONGEST]}).") from error
    if not isinstance(asked, dict) or not all(isinstance(key, str) for key in asked):
        raise UsageError(f"{path} is not a sweep file: it holds no method and parameters.")
    return text, asked


def _check_amount(path: Path, node: Any) -> None:
    """Raises UsageError where a file holds too much: with anchors, a few lines can stand for more than fits anywhere.

    Args:
        path: of the file, for the error.
        node: what the YAML parser made of it, before any value is made of that.
    """
    waiting, count = [node], 0
    while waiting:
        value = getattr(waiting.pop(), "value", None)
        if isinstance(value, list):
            inside = [one for pair in value for one in pair] if value and isinstance(value[0], tuple) else value
            waiting += inside
            count += len(inside)
        if count > MOST_VALUES:
            raise UsageError(f"{path} holds more than {MOST_VALUES:,} values (what an anchor names counts each time).")


def _check_service(place: str, asked: Mapping[str, Any]) -> None:
    """Refuses what only W&B's service, or a program of the user's own behind it, could do."""
    for key in set(SERVICE) & set(asked):
        value = asked[key]
        if isinstance(value, dict):
            value = value.get("engine" if key == "scheduler" else "type")
        if value not in SERVICE[key]:
            raise unknown(f"{key} in {place}", _word(value), SERVICE[key])


def _word(value: Any) -> str:
    """A word as it is; of something else, what it looks like."""
    return value if isinstance(value, str) else shown(value)


def _parameters(place: str, asked: Any, *, grid: bool) -> tuple[Parameter, ...]:
    if not isinstance(asked, dict) or not asked or not all(isinstance(value, dict) for value in asked.values()):
        raise UsageError(f"{place} has no parameters, each with value, values or a distribution.")
    found = tuple(parameter(str(name), value) for name, value in asked.items())
    return tuple(_counted(one) for one in found) if grid else found


def _counted(one: Parameter) -> Parameter:
    """A grid's parameter: each different value once, where 1.0 is 1 and true is not."""
    if one.choices is None:
        raise UsageError(f"parameter {one.name!r}: a grid needs values, a range of integers, or q_uniform.")
    if isinstance(one.choices, range):
        return one
    different = {(isinstance(value, bool), value): value for value in one.choices}
    return Parameter(one.name, tuple(different.values()))


def _is_prose(line: str) -> bool:
    """Whether a line is a comment that is read, not a command to be typed."""
    return line.startswith("#") and not line.startswith("#   ")


def _metric(asked: Any) -> tuple[Metric | None, float | None]:
    """What is looked for, and a good enough value of it."""
    if asked is None:
        return None, None
    known = {"name", "goal", "target", "impute", "impute_while_running"}  # failed runs teach bayes nothing here
    if not isinstance(asked, dict) or "name" not in asked or set(asked) - known:
        raise UsageError("a sweep's metric has a name, a goal (minimize or maximize) and, perhaps, a target.")
    target = None if asked.get("target") is None else number("the metric's target", asked["target"])
    metric = Metric(str(asked["name"]), asked.get("goal", "minimize"))
    if metric.goal not in ("minimize", "maximize"):
        raise unknown("goal", _word(metric.goal), ("minimize", "maximize"))
    return metric, target


def _command(name: str, asked: Any) -> tuple[str, ...]:
    """What follows `metasum`; `${env}` before it is nothing here."""
    plain = isinstance(asked, list) and all(isinstance(word, str | int | float) for word in asked)
    words = [str(word) for word in asked] if plain else []
    words = [word for word in words if word != "${env}"]
    if words[:1] != ["metasum"] or (words[1:2] or [""])[0] not in RUN_FOLDERS:
        known = " or ".join(f"metasum {command}" for command in RUN_FOLDERS)
        raise UsageError(f"the command of {name} is not {known}: only these can be swept here.")
    strange = [word for word in words if word.startswith("${") and word != "${args}"]
    if strange or words.count("${args}") != 1:
        problem = f"knows {strange[0]}" if strange else "does not have ${args} once"
        raise UsageError(f"the command of {name} {problem}; here it takes ${{args}} alone, and that once.")
    return tuple(words[1:])


def _cap(asked: Any) -> int | None:
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
        raise UsageError(f"run_cap must be a number of runs, not {shown(asked)}.")
    return asked
