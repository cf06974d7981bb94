"""Where on the arc between two tensors a point lies: what spherical interpolation needs to know of them whole."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from metasum.weights.merging.crew import Crew
from metasum.weights.merging.plan import Piece

SMALLEST_ANGLE = 1e-6  # radians
BLOCK = 1 << 16  # entries that are summed at once, however a tensor is cut


def arc_weights(
    pieces: Iterable[Piece],
    *,
    pairs: Callable[[Piece], list[Tensor]],
    positions: Mapping[str, float],
    crew: Crew,
) -> dict[str, tuple[float, float]]:
    """For each tensor, the factors on the first and on the second file's.

    SLERP (Shoemake 1985), see baselines/slerp.py; linear where the angle is within 1e-6 of 0 or of a half turn, or a
    norm is 0.

    Args:
        pieces: of all that is merged.
        pairs: reads both files' entries.
        positions: of each tensor, from 0 (the first file) to 1.
        crew: does the work.
    """
    products: dict[str, list[list[float]]] = defaultdict(lambda: [[], [], []])
    turn = threading.Lock()

    def show(piece: Piece) -> None:
        first, second = (values.double() for values in pairs(piece))
        sums = [_block_sums(product) for product in (first * second, first * first, second * second)]
        with turn:
            for all_sums, own in zip(products[piece.part.name], sums, strict=True):
                all_sums += own

    crew.spread(show, pieces)
    weights = {}
    for name, position in positions.items():
        product, first, second = map(_exact, products[name])
        weights[name] = _weights(product, first, second, position)
    return weights


def _block_sums(values: Tensor) -> list[float]:
    whole = len(values) // BLOCK * BLOCK
    sums: list[float] = values[:whole].view(-1, BLOCK).sum(1).tolist()
    return [*sums, float(values[whole:].sum())]


def _exact(sums: list[float]) -> float:
    return math.fsum(sums) if all(map(math.isfinite, sums)) else math.nan


def _weights(product: float, first: float, second: float, position: float) -> tuple[float, float]:
    lengths = math.sqrt(first) * math.sqrt(second)
    angle = math.acos(max(-1.0, min(1.0, product / lengths))) if lengths > 0 else 0.0
    if not SMALLEST_ANGLE <= angle <= math.pi - SMALLEST_ANGLE:
        return 1 - position, position
    return math.sin((1 - position) * angle) / math.sin(angle), math.sin(position * angle) / math.sin(angle)
