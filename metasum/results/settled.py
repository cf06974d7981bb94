"""Where running statistics had not settled: a network alone does otherwise by them than by recalibrated ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from metasum.results.accuracy import Spread
from metasum.results.table import PERCENT

APART = 0.01
"""Accuracies that differ by more than this are worth a sentence."""


class Alone(NamedTuple):
    """Accuracies in [0, 1] of a network alone."""

    name: str
    """Of its dataset, or of its learner."""
    recalibrated: float | None
    running: float | None
    """With running statistics; None where there are none, or where the other is with these, too."""


class Spreads(Protocol):
    """What a network alone does over several seeds."""

    @property
    def before(self) -> Spread: ...

    @property
    def before_running(self) -> Spread | None: ...


def alone_over_seeds(name: str, found: Spreads) -> Alone:
    """The means of what a learner's networks alone do."""
    return Alone(name, found.before.mean, None if found.before_running is None else found.before_running.mean)


def unsettled(found: Iterable[Alone], *, on: str = "") -> tuple[str, ...]:
    """What a table says below itself of networks whose running statistics tell another accuracy, a sentence each.

    Networks with the same numbers share one, as the learners that merge one pair of networks do.

    Args:
        found: the networks that the table is about.
        on: what stands behind their names.
    """
    names: dict[tuple[str, str], list[str]] = {}
    for name, recalibrated, running in found:
        if recalibrated is None or running is None or round(abs(recalibrated - running), 6) <= APART:
            continue
        names.setdefault((PERCENT.text(recalibrated, "terminal"), PERCENT.text(running, "terminal")), []).append(name)
    return tuple(
        f"{', '.join(own)}{on}: alone {recalibrated} with recalibrated statistics, {running} with the running ones: "
        "training was too short for these to settle, and `metasum evaluate` of the network's file shows the second "
        "number unless it is told --statistics recalibrate."
        for (recalibrated, running), own in names.items()
    )
