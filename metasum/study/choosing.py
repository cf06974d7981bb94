"""The choice of settings that a learner leaves open: every combination is tried, and the best one taken."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from metasum.results.surroundings import Settings, Tried, Tuned
from metasum.study.engine.cell import Failure
from metasum.training.progress import Display


def combinations(candidates: Mapping[str, tuple[Any, ...]], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the values that open settings may have; [] where nothing is to be chosen.

    Args:
        candidates: values by the name of their setting.
        given: settings that somebody gave, which are not open.
    """
    grid = {name: values for name, values in candidates.items() if name not in given}
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


def in_words(candidate: Settings) -> str:
    """Settings as a part of a folder's name."""
    return ",".join(f"{name}={value}" for name, value in candidate.items())


def mean_after(result: Any) -> float:
    """Of networks that were added: the mean accuracy after the sum."""
    return float(result.accuracy.mean_after)


@dataclasses.dataclass(frozen=True)
class Choose:
    """Of the candidates that could be tried, the one with the highest score."""

    candidates: Mapping[str, Settings]
    """Settings by the name of the cell that tries them."""
    score: Callable[[Any], float] = mean_after
    """Of such a cell's result; a module's function, so that it can be sent to another process."""

    def __call__(self, needed: Mapping[str, Any], display: Display) -> Tuned:
        tried = ((settings, needed[name]) for name, settings in self.candidates.items())
        return Tuned.best_of([Tried(s, self.score(got)) for s, got in tried if not isinstance(got, Failure)])


def chosen(needed: Mapping[str, Any], choice: str | None) -> dict[str, Any]:
    """The settings that the cell `choice` chose; {} where there is none, or where nothing could be tried."""
    found = needed.get(choice) if choice is not None else None
    return dict(found.chosen) if isinstance(found, Tuned) else {}
