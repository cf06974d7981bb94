"""A parameter of a W&B sweep file, as something that Optuna can search.

The distributions are those of W&B's documentation of sweep configuration. What Optuna has no distribution for is
searched as a quantile in (0, 1), and turned into a value by the inverse of its distribution function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metasum.errors import UsageError, unknown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

MOST = 100_000  # values that are listed
EDGE = 1e-6  # quantiles stay this far from 0 and 1, where a normal distribution is infinite


@dataclass(frozen=True)
class Parameter:
    """One name and what it may be."""

    name: str
    distribution: BaseDistribution
    """What Optuna searches."""
    value: Callable[[Any], Any] = lambda found: found
    """From what Optuna found to what the command is given."""
    choices: Sequence[Any] | None = None
    """All values in order, where they can be counted."""

    def suggested(self, trial: Trial) -> Any:
        """What Optuna finds for a trial."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        match self.distribution:
            case FloatDistribution(low=low, high=high, log=log, step=step):
                return trial.suggest_float(self.name, low, high, log=log, step=step)
            case IntDistribution(low=low, high=high, log=log, step=step):
                return trial.suggest_int(self.name, low, high, log=log, step=step)
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)
        raise AssertionError(self.distribution)


def parameter(name: str, asked: Mapping[str, Any]) -> Parameter:
    """The parameter `name` of a sweep file.

    Args:
        name: of a command's option.
        asked: what the file says of it: `value`, `values`, or a distribution with its numbers.

    Raises:
        UsageError: an unknown distribution, a number that is missing, or one that makes no sense.
    """
    kind = _kind(name, asked)
    if kind not in _KINDS:
        raise unknown(f"distribution of {name!r}", kind, _KINDS)
    needed, make = _KINDS[kind]
    allowed = {"distribution", *needed} | ({"q"} if kind.startswith("q_") else set())
    if surplus := sorted(set(asked) - allowed):
        raise UsageError(f"parameter {name!r}: {surplus[0]!r} says nothing to distribution {kind!r} here.")
    for key in needed:
        if key not in asked and key not in _DEFAULTS:
            raise UsageError(f"parameter {name!r}: distribution {kind!r} needs {key!r}.")
    numbers = {key: asked.get(key, _DEFAULTS.get(key)) for key in allowed - {"distribution"}}
    try:
        return make(name, **numbers)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"parameter {name!r} makes no sense: {error}.") from error


_DEFAULTS: dict[str, Any] = {"mu": 0.0, "sigma": 1.0, "q": 1.0, "a": 1.0, "b": 1.0}


def _kind(name: str, asked: Mapping[str, Any]) -> str:
    """The distribution that W&B takes where none is named."""
    if "parameters" in asked:
        raise UsageError(f"parameter {name!r} is nested; options of a command have no sections.")
    if "distribution" in asked:
        return str(asked["distribution"])
    if "value" in asked:
        return "constant"
    if "values" in asked:
        return "categorical"
    if {"min", "max"} <= set(asked):
        return "int_uniform" if all(isinstance(asked[key], int) for key in ("min", "max")) else "uniform"
    raise UsageError(f"parameter {name!r} has neither value, values, min and max, nor a distribution.")


def _categorical(name: str, values: Any) -> Parameter:
    from optuna.distributions import CategoricalDistribution

    if not isinstance(values, list) or not values:
        raise ValueError(f"its values are {values!r}, not a list")
    for value in values:
        if not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"{value!r} cannot be an option's value")
    return Parameter(name, CategoricalDistribution(values), choices=tuple(values))


def _constant(name: str, value: Any) -> Parameter:
    return _categorical(name, [value])


def _int_uniform(name: str, min: Any, max: Any) -> Parameter:
    from optuna.distributions import IntDistribution

    if min != int(min) or max != int(max):
        raise ValueError(f"{min} to {max} are not integers")
    low, high = int(min), int(max)
    return Parameter(name, IntDistribution(low, high), choices=range(low, high + 1))


def _uniform(name: str, min: Any, max: Any) -> Parameter:
    from optuna.distributions import FloatDistribution

    return Parameter(name, FloatDistribution(float(min), float(max)))


def _q_uniform(name: str, min: Any, max: Any, q: Any) -> Parameter:
    from optuna.distributions import FloatDistribution

    rounded = _to(q)
    low, high = rounded(float(min)), rounded(float(max))
    count = round((high - low) / float(q)) + 1
    choices = tuple(rounded(low + place * float(q)) for place in range(count)) if count <= MOST else None
    return Parameter(name, FloatDistribution(low, high, step=float(q)), rounded, choices)


def _log_uniform_values(name: str, min: Any, max: Any, q: Any = None) -> Parameter:
    from optuna.distributions import FloatDistribution

    return Parameter(name, FloatDistribution(float(min), float(max), log=True), _to(q))


def _log_uniform(name: str, min: Any, max: Any, q: Any = None) -> Parameter:
    return _log_uniform_values(name, math.exp(min), math.exp(max), q)


def _inv_log_uniform(name: str, min: Any, max: Any) -> Parameter:
    return _log_uniform_values(name, math.exp(-max), math.exp(-min))  # log(1/x) is uniform between min and max


def _quantile(name: str, inverse: Callable[[float], Any], q: Any) -> Parameter:
    from optuna.distributions import FloatDistribution

    rounded = _to(q)
    return Parameter(name, FloatDistribution(EDGE, 1 - EDGE), lambda found: rounded(float(inverse(found))))


def _normal(name: str, mu: Any, sigma: Any, q: Any = None) -> Parameter:
    from scipy.stats import norm

    return _quantile(name, norm(float(mu), _positive(sigma)).ppf, q)


def _log_normal(name: str, mu: Any, sigma: Any, q: Any = None) -> Parameter:
    from scipy.stats import lognorm

    return _quantile(name, lognorm(_positive(sigma), scale=math.exp(mu)).ppf, q)


def _beta(name: str, a: Any, b: Any, q: Any = None) -> Parameter:
    from scipy.stats import beta

    return _quantile(name, beta(_positive(a), _positive(b)).ppf, q)


def _positive(value: Any) -> float:
    if float(value) <= 0:
        raise ValueError(f"{value} is not greater than 0")
    return float(value)


def _to(q: Any) -> Callable[[float], float]:
    """Rounds to multiples of `q`, without the dust of binary fractions; to integers where q is one; not, without q."""
    if q is None:
        return lambda value: value
    step = _positive(q)
    if step == int(step):
        return lambda value: round(value / step) * int(step)
    return lambda value: round(round(value / step) * step, 12)


_RANGE = ("min", "max")
_KINDS: dict[str, tuple[tuple[str, ...], Callable[..., Parameter]]] = {
    "constant": (("value",), _constant),
    "categorical": (("values",), _categorical),
    "int_uniform": (_RANGE, _int_uniform),
    "uniform": (_RANGE, _uniform),
    "q_uniform": (_RANGE, _q_uniform),
    "log_uniform": (_RANGE, _log_uniform),
    "log_uniform_values": (_RANGE, _log_uniform_values),
    "q_log_uniform": (_RANGE, _log_uniform),
    "q_log_uniform_values": (_RANGE, _log_uniform_values),
    "inv_log_uniform": (_RANGE, _inv_log_uniform),
    "inv_log_uniform_values": (_RANGE, _log_uniform_values),  # log(1/x) is uniform where log(x) is
    "normal": (("mu", "sigma"), _normal),
    "q_normal": (("mu", "sigma"), _normal),
    "log_normal": (("mu", "sigma"), _log_normal),
    "q_log_normal": (("mu", "sigma"), _log_normal),
    "beta": (("a", "b"), _beta),
    "q_beta": (("a", "b"), _beta),
}
