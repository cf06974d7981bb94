"""From a method's name and settings to its arithmetic, with whatever has to be known of whole tensors first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from metasum.config.merge import MergeConfig, factors
from metasum.weights.merging import formulas
from metasum.weights.merging.arcs import arc_weights
from metasum.weights.merging.crew import Crew
from metasum.weights.merging.formulas import Formula
from metasum.weights.merging.layers import Layers
from metasum.weights.merging.plan import Part, Piece, pieces_of
from metasum.weights.merging.reading import Chunk, Reader
from metasum.weights.merging.selection import DIGITS
from metasum.weights.merging.thinning import kept_entries
from metasum.weights.merging.trimming import trim_bounds, widest


@dataclass(frozen=True)
class Work:
    """One merge: what is read, how it is cut, who does it."""

    settings: MergeConfig
    layers: Layers
    parts: Sequence[Part]
    """Those that are merged."""
    files: int
    """How many are merged."""
    reader: Reader
    crew: Crew
    size: int
    """Most entries of a piece."""

    def pieces(self, parts: Sequence[Part]) -> Iterator[Piece]:
        """Pieces of some parts, in order."""
        return (piece for part in parts for piece in pieces_of(part, self.size))


def formula_for(method: str, work: Work) -> Formula:
    """The method's arithmetic; reads the files where it first has to."""
    return RECIPES[method](work)


def reads(method: str, settings: MergeConfig, parts: Sequence[Part]) -> int:
    """How often the method reads every file."""
    trims = method == "ties" or (method == "dare" and settings.dare_then == "ties")
    if trims and settings.density < 1:
        return 1 + len(DIGITS[widest(parts)])
    return 2 if method == "slerp" else 1


def _weighted(work: Work) -> Formula:
    usual = factors(work.settings.weights)
    return lambda chunk: formulas.weighted(chunk, work.layers.value(chunk.name, usual))


def _task_arithmetic(work: Work) -> Formula:
    return _added(work, formulas.differences)


def _ties(work: Work) -> Formula:
    return _elected(work, formulas.differences)


def _dare(work: Work) -> Formula:
    settings = work.settings

    def thinned(chunk: Chunk) -> list[Tensor]:
        vectors = formulas.differences(chunk)
        for file, vector in enumerate(vectors):
            kept = kept_entries(
                chunk.start,
                len(vector),
                drop_rate=settings.drop_rate,
                seed=settings.seed,
                name=chunk.name,
                file=file,
            )
            vector.mul_(kept).div_(1 - settings.drop_rate)
        return vectors

    return (_elected if settings.dare_then == "ties" else _added)(work, thinned)


def _added(work: Work, vectors: Callable[[Chunk], list[Tensor]]) -> Formula:
    def merge(chunk: Chunk) -> Tensor:
        scaling = work.layers.value(chunk.name, work.settings.scaling)
        return formulas.onto_base(chunk, formulas.total(vectors(chunk)), scaling)

    return merge


def _elected(work: Work, vectors: Callable[[Chunk], list[Tensor]]) -> Formula:
    settings = work.settings
    bounds = trim_bounds(
        work.parts,
        pieces=work.pieces,
        vectors=lambda piece: vectors(work.reader.chunk(piece)),
        files=work.files,
        density=settings.density,
        together=settings.trim == "whole",
        crew=work.crew,
    )

    def merge(chunk: Chunk) -> Tensor:
        trimmed = formulas.keep_largest(vectors(chunk), bounds[chunk.name])
        scaling = work.layers.value(chunk.name, settings.scaling)
        return formulas.onto_base(chunk, formulas.disjoint_mean(trimmed), scaling)

    return merge


def _slerp(work: Work) -> Formula:
    positions = {part.name: work.layers.value(part.name, work.settings.position) for part in work.parts}
    pairs = lambda piece: work.reader.chunk(piece).values  # noqa: E731
    weights = arc_weights(work.pieces(work.parts), pairs=pairs, positions=positions, crew=work.crew)
    return lambda chunk: formulas.on_the_arc(chunk, weights[chunk.name])


RECIPES: dict[str, Callable[[Work], Formula]] = {
    "sum": lambda work: lambda chunk: formulas.total(chunk.values),
    "average": lambda work: formulas.average,
    "weighted": _weighted,
    "task-arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare": _dare,
    "slerp": _slerp,
}
