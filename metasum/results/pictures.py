"""What pictures are drawn from: lines between networks, layers, confusions, images that a network gets wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from metasum.files import read_json
from metasum.results.value import Value

Matrix: TypeAlias = tuple[tuple[int, ...], ...]
"""How many images of each class (row) were taken for each class (column)."""


@dataclass(frozen=True)
class Line(Value):
    """Accuracy along α θ_first + (1 - α) θ_second."""

    alphas: tuple[float, ...]
    """From 0 to 1."""
    accuracy: Mapping[str, tuple[float, ...]]
    """On each dataset by its name, in [0, 1], one for each α."""


@dataclass(frozen=True)
class LayerGeometry(Value):
    """Two networks' weights of one layer, each taken as one long vector. None where a vector is zero."""

    name: str
    cosine: float | None
    """Cosine of the angle between them, in [-1, 1]."""
    norm_ratio: float | None
    """‖first‖ / ‖second‖."""


@dataclass(frozen=True)
class Mistake(Value):
    """A held-out image that the sum gets wrong."""

    label: int
    before: int
    """The class that the network alone takes it for; `after`: the sum."""
    after: int
    png: str
    """The image, base64."""


@dataclass(frozen=True)
class Confusions(Value):
    """Of a network alone and of the sum, on the same images."""

    before: Matrix
    after: Matrix


@dataclass(frozen=True)
class Analysis(Value):
    """What analysis.json holds: a closer look at a run that is finished."""

    confusion: Mapping[str, Confusions]
    """Of "target" and "support"."""
    mistakes: tuple[Mistake, ...]
    """Of the sum, on the target's images."""
    interpolation: Line

    @classmethod
    def of(cls, run: Path) -> Self:
        """Of the run in a folder; raises CheckpointError where the file is missing or damaged."""
        return cls.parse(read_json(run / "analysis.json"), where=str(run / "analysis.json"))
