"""A study's cells: what is to be done, and what each needs of the others."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Protocol, TypeAlias

from metasum.training.progress import Display


class Work(Protocol):
    """What a cell does: a value that can be pickled, for instance a frozen dataclass with this one method."""

    def __call__(self, needed: Mapping[str, Any], display: Display) -> Any:
        """Does it.

        Args:
            needed: by name, the results of the cells in `needs`, and the outcomes of those in `after`.
            display: is told about progress.

        Returns:
            A result that can be pickled.

        Raises:
            OccupiedError: another process does it just now; it is tried again later.
            Interrupted: it was asked to stop (SIGINT or SIGTERM), and has saved its state.
            Exception: it failed; only the cells that need it fail with it.
        """
        ...


@dataclass(frozen=True)
class Cell:
    """One piece of a study."""

    name: str
    """Unique in the study; it is also what is shown."""
    work: Work
    needs: tuple[str, ...] = ()
    """Names of the cells whose results it takes; it fails where one of them fails."""
    after: tuple[str, ...] = ()
    """Names of the cells whose outcomes it takes, a result or a `Failure`; it begins when all of them have ended."""


@dataclass(frozen=True)
class Failure:
    """What became of a cell that has no result."""

    cell: str
    error: str
    """One sentence."""
    because: str | None = None
    """The name of the failed cell that it needed; None where it failed by itself."""


Outcome: TypeAlias = Any
"""What became of a cell: its result, or a `Failure`."""


def ordered(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in an order in which each comes after all that it needs, and otherwise as they were given.

    Raises:
        ValueError: two cells have one name, a cell needs one that does not exist, or cells need each other in a circle.
    """
    places = {cell.name: place for place, cell in enumerate(cells)}
    if len(places) < len(cells):
        double = next(cell.name for place, cell in enumerate(cells) if places[cell.name] != place)
        raise ValueError(f"two cells are named {double!r}")
    for cell in cells:
        missing = next((name for name in (*cell.needs, *cell.after) if name not in places), None)
        if missing is not None:
            raise ValueError(f"cell {cell.name!r} needs {missing!r}, which does not exist")
    graph = TopologicalSorter({cell.name: (*cell.needs, *cell.after) for cell in cells})
    graph.prepare()  # raises CycleError, a ValueError, with the names
    found, free = list[Cell](), list[int]()
    while graph.is_active():
        for name in graph.get_ready():
            heapq.heappush(free, places[name])
        found.append(cells[heapq.heappop(free)])
        graph.done(found[-1].name)
    return found
