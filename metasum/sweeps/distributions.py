"""A parameter of a W&B sweep file, as something that Optuna can search.

What a parameter can be is what W&B's own sampler (its package `sweeps`) knows: values in a list, or a distribution of
scipy. Of a distribution, Optuna searches the quantile, a number between 0 and 1; the value at that quantile is what the
command is given, for the names that begin with `q_` rounded to a multiple of `q`.
"""

from __future__ import annotations

import bisect
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metasum.errors import UsageError, shown, unknown

if TYPE_CHECKING:
    from optuna.trial import Trial

LARGEST_LIST = 100_000  # values of a q_uniform that a grid still lists
LARGEST = sys.float_info.max  # a greater integer is no number to calculate with
LARGEST_RANGE = 2**53  # integers above are not told apart as floats, which samplers take them for
EDGE = 1e-6  # searched quantiles stay this far from 0 and 1, where a normal distribution is infinite
SEEN = (EDGE, 0.5, 1 - EDGE)


@dataclass(frozen=True)
class Parameter:
    """One name and what it may be."""

    name: str
    choices: Sequence[Any] | None = None
    """All values in order, of which a grid takes each once; None where they cannot be counted."""
    at: Callable[[float], Any] | None = None
    """The value at a quantile; None where every one of `choices` is as likely as the next."""

    def suggested(self, trial: Trial) -> Any:
        """The value that Optuna finds for a trial."""
        if self.at is not None:
            return self.at(trial.suggest_float(self.name, EDGE, 1 - EDGE))
        assert self.choices is not None
        if isinstance(self.choices, range):
            return trial.suggest_int(self.name, self.choices[0], self.choices[-1])
        return trial.suggest_categorical(self.name, self.choices)


def parameter(name: str, asked: Mapping[str, Any]) -> Parameter:
    """The parameter `name` of a sweep file.

    Args:
        name: of a command's option.
        asked: what the file says of it: `value`, `values`, or a distribution with its numbers.

    Raises:
        UsageError: an unknown distribution, a number that is missing, or one that makes no sense.
    """
    kind = _kind(name, asked)
    quantised = kind.startswith("q_") and kind[2:] in _QUANTISED
    if kind not in _KINDS and not quantised:
        raise unknown(f"distribution of {name!r}", kind, [*_KINDS, *(f"q_{one}" for one in _QUANTISED)])
    needed, make = _KINDS[kind[2:] if quantised else kind]
    keys = (*needed, "q") if quantised else needed
    if surplus := sorted(set(asked) - {"distribution", *keys}):
        raise UsageError(f"parameter {name!r}: {surplus[0]!r} says nothing to distribution {kind!r} here.")
    found = _DEFAULTS | dict(asked)
    for key in keys:
        if key not in found:
            raise UsageError(f"parameter {name!r}: distribution {kind!r} needs {key!r}.")
        if key not in ("value", "values", "probabilities"):
            found[key] = number(f"parameter {name!r}: {key}", found[key])
    try:
        one = make(name, *(found[key] for key in needed))
        return _rounded(one, found) if quantised else one
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"parameter {name!r} makes no sense: {error}.") from error


def number(what: str, value: Any) -> float:
    """The value, where it is a finite number; raises UsageError, naming `what` it is, where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        hint = " (in YAML, 1e-3 is a word; write 1.0e-3)" if isinstance(value, str) and "e" in value.lower() else ""
        raise UsageError(f"{what} is {shown(value)}, not a number{hint}.")
    return value


def _kind(name: str, asked: Mapping[str, Any]) -> str:
    """The distribution that W&B takes where none is named."""
    if "parameters" in asked:
        raise UsageError(f"parameter {name!r} is nested; options of a command have no sections.")
    if "distribution" in asked:
        return str(asked["distribution"])
    if "value" in asked:
        return "constant"
    if "values" in asked:
        return "categorical_w_probabilities" if "probabilities" in asked else "categorical"
    if {"min", "max"} <= set(asked):
        return "int_uniform" if all(isinstance(asked[key], int) for key in ("min", "max")) else "uniform"
    raise UsageError(f"parameter {name!r} has neither value, values, min and max, nor a distribution.")


def _categorical(name: str, values: Any) -> Parameter:
    if not isinstance(values, list) or not values:
        raise ValueError(f"its values are {shown(values)}, not a list")
    for value in values:
        if not isinstance(value, str | int | float | bool | None) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise ValueError(f"{shown(value)} cannot be an option's value")
    return Parameter(name, tuple(values))


def _weighted(name: str, values: Any, probabilities: Any) -> Parameter:
    choices = _categorical(name, values).choices or ()
    if not isinstance(probabilities, list) or len(probabilities) != len(choices):
        raise ValueError(f"it has {len(choices)} values, but its probabilities are {shown(probabilities)}")
    if min(probabilities) < 0 or not math.isclose(sum(probabilities), 1, rel_tol=1e-5):
        raise ValueError(f"its probabilities {shown(probabilities)} are not shares of 1")
    edges = list(itertools.accumulate(probabilities))[:-1]
    return Parameter(name, at=lambda quantile: choices[bisect.bisect_right(edges, quantile)])


def _int_uniform(name: str, min: float, max: float) -> Parameter:
    if not isinstance(min, int) or not isinstance(max, int) or min >= max:
        raise ValueError(f"{min} to {max} is no range of integers")
    if max - min >= LARGEST_RANGE or not -LARGEST_RANGE < min < max < LARGEST_RANGE:
        raise ValueError(f"{shown(min)} to {shown(max)} are more integers than can be told apart")
    return Parameter(name, range(min, max + 1))


def _of_scipy(distribution: Callable[[Any, float, float], Any]) -> Callable[..., Parameter]:
    """Makes parameters of a distribution of `scipy.stats` with two numbers."""

    def make(name: str, first: float, second: float) -> Parameter:
        import numpy as np
        from scipy import stats

        quantile_function = distribution(stats, first, second).ppf
        with np.errstate(all="ignore"):
            finite = np.isfinite(quantile_function(SEEN)).all()
        if not finite:
            raise ValueError(f"no such distribution, of finite values, has the numbers {first:g} and {second:g}")
        return Parameter(name, at=lambda quantile: float(quantile_function(quantile)))

    return make


def _rounded(one: Parameter, numbers: Mapping[str, Any]) -> Parameter:
    """The parameter in multiples of `q`; of a uniform one, a grid takes `min`, `min + q`, … below `max`, as W&B's."""
    q, at = numbers["q"], one.at
    if q <= 0:
        raise ValueError(f"q is {q}, not greater than 0")
    assert at is not None
    choices = None
    count = math.ceil((numbers["max"] - numbers["min"]) / q) if numbers["distribution"] == "q_uniform" else None
    if count is not None and count <= LARGEST_LIST:
        choices = tuple(_plain(numbers["min"] + step * q) for step in range(count))
    found = Parameter(one.name, choices, lambda quantile: _plain(round(at(quantile) / q) * q))
    if not all(math.isfinite(found.at(quantile)) for quantile in SEEN if found.at):
        raise ValueError(f"its values are no multiples of {q:g}")
    return found


def _plain(value: float) -> float:
    """Without the dust of binary fractions: 0.3, not 0.30000000000000004. Integers stay integers."""
    return value if isinstance(value, int) else float(f"{value:.12g}")


_DEFAULTS: dict[str, Any] = {"mu": 0.0, "sigma": 1.0, "q": 1, "a": 1.0, "b": 1.0}
_RANGE = ("min", "max")
_log_uniform_values = _of_scipy(lambda stats, min, max: stats.loguniform(min, max))
_KINDS: dict[str, tuple[tuple[str, ...], Callable[..., Parameter]]] = {
    "constant": (("value",), lambda name, value: _categorical(name, [value])),
    "categorical": (("values",), _categorical),
    "categorical_w_probabilities": (("values", "probabilities"), _weighted),
    "int_uniform": (_RANGE, _int_uniform),
    "uniform": (_RANGE, _of_scipy(lambda stats, min, max: stats.uniform(min, max - min))),
    "log_uniform": (_RANGE, _of_scipy(lambda stats, min, max: stats.loguniform(math.exp(min), math.exp(max)))),
    "log_uniform_values": (_RANGE, _log_uniform_values),
    "inv_log_uniform": (_RANGE, _of_scipy(lambda stats, min, max: stats.loguniform(math.exp(-max), math.exp(-min)))),
    "inv_log_uniform_values": (_RANGE, _log_uniform_values),  # log(1/x) is uniform where log(x) is
    "normal": (("mu", "sigma"), _of_scipy(lambda stats, mu, sigma: stats.norm(mu, sigma))),
    "log_normal": (("mu", "sigma"), _of_scipy(lambda stats, mu, sigma: stats.lognorm(sigma, scale=math.exp(mu)))),
    "beta": (("a", "b"), _of_scipy(lambda stats, a, b: stats.beta(a, b))),
}
_QUANTISED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
