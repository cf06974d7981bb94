"""What numbers depend on, and what did not work: data, versions, machine; settings that were chosen; failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from metasum.files import read_json
from metasum.results.table import PERCENT, Column, Table
from metasum.results.upgrade import Plain
from metasum.results.value import Value

Settings: TypeAlias = Mapping[str, Any]
"""By name; those of a section under the section's name."""


@dataclass(frozen=True)
class DatasetFacts(Value):
    """Which images a dataset has."""

    name: str
    source: str
    checksum: str
    train: int
    """Images; `test` likewise."""
    test: int
    classes: int

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.source}, {self.train} + {self.test} images, {self.classes} classes, "
            f"checksum {self.checksum}"
        )


@dataclass(frozen=True)
class Failed(Value):
    """A run of a study that failed; the others went on."""

    learner: str
    seed: int
    error: str
    """In one sentence."""
    run: str
    """Its folder."""

    def __str__(self) -> str:
        return f"failed: {Path(self.run).name}: {self.error}"


@dataclass(frozen=True)
class Tried(Value):
    """A candidate for the settings that a learner leaves open."""

    settings: Settings
    score: float
    """Accuracy on validation images (mean, after the sum) or on episodes of validation classes, in [0, 1]."""


@dataclass(frozen=True)
class Tuned(Value):
    """What was chosen for a learner, and all that was tried."""

    chosen: Settings
    tried: tuple[Tried, ...]

    @classmethod
    def best_of(cls, tried: Sequence[Tried]) -> Self:
        """The settings with the highest score, the first of equals; none where nothing was tried."""
        chosen = max(tried, key=lambda candidate: candidate.score).settings if tried else {}
        return cls(chosen, tuple(tried))


@dataclass(frozen=True)
class Description(Value):
    """What config.json of a run says, as far as its page shows it."""

    settings: Settings
    data: Mapping[str, DatasetFacts]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    initial_checksum: str

    @property
    def own(self) -> Settings:
        """The learner's own settings by name; in format 1 they are among those of all other sections."""
        if "own" in self.settings:
            own: Settings = self.settings["own"]
            return own
        sections = (section for section in self.settings.values() if isinstance(section, Mapping))
        return {name: value for section in sections for name, value in section.items()}

    @classmethod
    def of(cls, run: Path) -> Self:
        """Of the run in a folder; raises CheckpointError where the file is missing or damaged."""
        return cls.parse(read_json(run / "config.json"), where=str(run / "config.json"))

    @classmethod
    def arranged(cls, plain: Plain) -> Plain:
        return {name: plain[name] for name in cls.__dataclass_fields__ if name in plain}


def named(values: Settings) -> str:
    """`name value, name value`."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def tuning_table(tuned: Tuned, head: str = "mean accuracy after, validation") -> Table[Tried]:
    """Every candidate and its score, whose column has this head."""
    return Table(
        (
            Column("candidate", lambda tried: named(tried.settings)),
            Column(head, lambda tried: tried.score, PERCENT),
        ),
        tuned.tried,
    )


def in_short(value: Any) -> str:
    """A setting's value or a measured one: numbers with a fraction to four digits, all else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
