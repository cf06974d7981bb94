"""W&B's hyperband: which runs are ended early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metasum.errors import UsageError, shown, unknown
from metasum.sweeps.distributions import number

MOST_BANDS = 100  # of a sweep that says where they begin and not where they end


@dataclass(frozen=True)
class Hyperband:
    """At each band, a run goes on where it is among the best 1/eta of all runs that have come so far."""

    bands: tuple[int, ...]
    """Numbers of evaluations, in ascending order."""
    eta: float
    strict: bool
    """Judge a run by its value at the band, not by its best value up to now."""

    def stops(self, own: Sequence[float], everyone: Sequence[Sequence[float]]) -> bool:
        """Whether a run is to be ended; the rule is that of W&B's sampler.

        Args:
            own: the run's values so far, one an evaluation; lower ones are better.
            everyone: the values of all runs of the sweep, this one too.
        """
        reached = [band for band in self.bands if band <= len(own)]
        if not reached:
            return False
        band = reached[-1]
        there = sorted(values[band - 1] for values in everyone if len(values) >= band)
        worst_that_stays = there[int(1 / self.eta * len(there))]
        return (own[band - 1] if self.strict else min(own)) > worst_that_stays


def hyperband(asked: Any) -> Hyperband | None:
    """What a sweep file's `early_terminate` asks for; None where there is none.

    Raises:
        UsageError: it is no hyperband, or its numbers make no bands.
    """
    if asked is None:
        return None
    if not isinstance(asked, dict) or asked.get("type") != "hyperband":
        raise UsageError("early_terminate knows the type hyperband only.")
    known = ("type", "min_iter", "max_iter", "s", "eta", "strict")
    for key in asked:
        if key not in known:
            raise unknown("key in early_terminate", str(key), known)
    eta, strict = number("early_terminate: eta", asked.get("eta", 3)), asked.get("strict", True)
    if eta <= 1:
        raise UsageError(f"early_terminate: eta must be greater than 1, not {eta:g}.")
    if not isinstance(strict, bool):
        raise UsageError(f"early_terminate: strict is true or false, not {shown(strict)}.")
    if {"max_iter", "s"} <= set(asked):
        bands = _series(_whole(asked, "max_iter"), lambda band: band / eta, _whole(asked, "s") + 1)[1:]
    elif "min_iter" in asked:
        bands = _series(_whole(asked, "min_iter"), lambda band: band * eta, MOST_BANDS)
    else:
        raise UsageError("early_terminate needs min_iter, or max_iter and s.")
    if not bands:
        raise UsageError("early_terminate: max_iter, divided by eta, leaves no evaluation to judge a run at.")
    return Hyperband(tuple(sorted(bands)), eta, strict)


def _series(band: float, following: Callable[[float], float], count: int) -> list[int]:
    """The band and those that follow, `count` in all, as far as they are numbers of evaluations."""
    found: list[int] = []
    while len(found) < count and 1 <= band < 2**62:
        found.append(int(band))
        band = following(band)
    return found


def _whole(asked: Mapping[str, Any], key: str) -> int:
    value = asked[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"early_terminate: {key} must be an integer of at least 1, not {shown(value)}.")
    return value
