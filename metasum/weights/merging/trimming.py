"""How large a difference has to be for TIES to keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from metasum.weights.merging.crew import Crew
from metasum.weights.merging.plan import Part, Piece
from metasum.weights.merging.selection import DIGITS, Selection, just_below


def trim_bounds(
    parts: Sequence[Part],
    *,
    pieces: Callable[[Sequence[Part]], Iterator[Piece]],
    vectors: Callable[[Piece], list[Tensor]],
    files: int,
    density: float,
    together: bool,
    crew: Crew,
) -> dict[str, list[float]]:
    """For each part, each file's largest magnitude that is *not* kept; those as large as the last one kept stay.

    Args:
        parts: what is merged.
        pieces: cuts parts.
        vectors: reads each file's differences from the base.
        files: how many.
        density: share that is kept, in (0, 1]: of a vector of n entries int(density · n), at least one.
        together: a file's parts are one long vector; else each is one by itself.
        crew: does the work.
    """
    found: dict[str, list[float]] = {}
    if together:
        found = _bounds(parts, pieces, vectors, files, density, crew.spread)
    else:  # a thread a tensor, the largest first, so that none is left with a large one at the end

        def alone(part: Part) -> None:
            found.update(_bounds([part], pieces, vectors, files, density, _one_by_one))

        crew.spread(alone, sorted(parts, key=lambda part: -part.entries))
    return found


def widest(parts: Sequence[Part]) -> torch.dtype:
    """float64 where a part is computed in it, else float32."""
    return torch.float64 if any(part.arithmetic == torch.float64 for part in parts) else torch.float32


def _bounds(
    parts: Sequence[Part],
    pieces: Callable[[Sequence[Part]], Iterator[Piece]],
    vectors: Callable[[Piece], list[Tensor]],
    files: int,
    density: float,
    spread: Callable[[Callable[[Piece], None], Iterable[Piece]], None],
) -> dict[str, list[float]]:
    entries = sum(part.entries for part in parts)
    if density == 1 or entries == 0:
        keeps_all = -1.0
        return {part.name: [keeps_all] * files for part in parts}
    dtype = widest(parts)
    selection = Selection(files, max(1, int(density * entries)), dtype)

    def show(piece: Piece) -> None:
        for number, vector in enumerate(vectors(piece)):
            selection.count(number, vector.abs_())

    for _ in DIGITS[dtype]:
        spread(show, pieces(parts))
        selection.narrow()
    return {part.name: [just_below(value, part.arithmetic) for value in selection.values] for part in parts}


def _one_by_one(work: Callable[[Piece], None], items: Iterable[Piece]) -> None:
    for item in items:
        work(item)
