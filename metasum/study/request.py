"""What somebody asks of a study of several learners and seeds, and the study in which nothing is open any more."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasum.baselines.registry import learner_named
from metasum.learners.written import WrittenLearner
from metasum.run.request import Request
from metasum.study.choosing import combinations, in_words
from metasum.study.tracking import tracking_of
from metasum.training.wandb_runs import TrackerTroubles, wandb_mode

OWN_HEADS = "-own-heads"
"""What stands behind the names of folders in which sums are measured with own heads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """Settings that all runs share, and which runs there are to be."""

    request: Request = dataclasses.field(default_factory=Request)
    """The settings that were given [default: none, which is the embedded pair]. Its seed is the first run's."""
    learners: tuple[str, ...] | None = None
    """Names [default: all that are registered and suit the study]."""
    seeds: int = 3
    """How many, counted up."""
    tuned: bool = True
    """Choose the settings that a learner has candidates for on validation images of the first seed (a fixed tenth of
    the training images, which those runs do not train on). Settings that were given are never chosen so."""
    out: Path = Path("runs")
    """Folder of all runs; those of a pair are in `<out>/<target>+<support>`."""
    download: bool = False
    """Let torchvision fetch a dataset that is not there."""
    report: bool = True
    """Look closer at the first seed's runs, and draw pages of them and of the study."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Which runs a study has, with which settings, and where they lie."""

    request: Request
    """What all runs share. Each learner takes of it what it reads."""
    targets: tuple[str, ...]
    learners: tuple[str, ...]
    anchors: tuple[str, ...] = ()
    """Names of what is trained on all targets together, and stands beside the learners."""
    seeds: tuple[int, ...]
    tuned: bool
    out: Path
    place: Path
    """The folder of the study's own results."""
    download: bool
    report: bool
    troubles: TrackerTroubles = dataclasses.field(default_factory=TrackerTroubles, compare=False)
    """With trackers, so far."""

    @property
    def support(self) -> str:
        """The name of the support's dataset."""
        return str(self.request["support"])

    @property
    def own_heads(self) -> bool:
        """Whether sums are measured with each dataset's own head."""
        return bool(self.request["heads"] == "own")

    def folder(self, target: str) -> Path:
        """Where the runs of a target lie."""
        return self.out / f"{target}+{self.support}"

    def run_path(
        self,
        target: str,
        learner: str,
        seed: int,
        *,
        validation: bool = False,
        candidate: Mapping[str, Any] | None = None,
        trained_only: bool = False,
    ) -> Path:
        """The folder of one run.

        Args:
            target: whose run it is, with this learner and seed.
            validation: of one that is measured on validation images, to choose settings.
            candidate: with these settings.
            trained_only: of the one that a study of summed heads has, whose networks this one measures with own heads.
        """
        name = "-".join([learner, f"seed{seed}"])
        if candidate:
            name += "-" + in_words(candidate)
        name += "".join(f"-{setting}{number}" for setting, number in self.numbered(target, learner).items())
        if self.own_heads and not trained_only:
            name += OWN_HEADS
        folder = self.folder(target) / "validation" if validation else self.folder(target)
        return folder / name

    def numbered(self, target: str, learner: str) -> dict[str, int]:
        """The setting that tells a learner which of the networks to be added its target's is; {} for the first."""
        setting, number = learner_named(learner).numbered, self.targets.index(target)
        return {setting: number} if setting is not None and number else {}

    def candidates(self, learner: str) -> list[dict[str, Any]]:
        """Every combination of the values that a learner's open settings may have; [] where nothing is to be chosen."""
        if not self.tuned or learner not in self.learners:
            return []
        return combinations(learner_named(learner).candidates, self.request.given)

    def taken_from(self, learner: str, *, chosen: bool) -> str | None:
        """The learner whose finished runs have the networks that a learner's run only merges or measures.

        With own heads a run measures the networks of the run with summed heads, which are the same, unless settings are
        chosen for it (`chosen`) or finished networks are not all that its sum is made of.
        """
        facts, given = learner_named(learner), self.request.given
        learned = "learned" in (given.get("operator"), given.get("statistics"))
        again = self.own_heads and not chosen and not learned and not issubclass(facts, WrittenLearner)
        return facts.endpoints or (learner if again else None)

    def source_path(self, target: str, source: str, seed: int, *, validation: bool = False) -> Path:
        """The folder of the run whose networks others merge or measure: with own heads, too, one with summed heads."""
        again = self.own_heads and not self.candidates(source)
        return self.run_path(target, source, seed, validation=validation, trained_only=again)

    def looked_into(self, learner: str, seed: int) -> bool:
        """Whether a run is looked at closely, for pictures: the first seed's of a learner that trains its own."""
        own = learner in self.learners and learner_named(learner).endpoints is None
        return self.report and own and seed == self.seeds[0]

    def run_request(self, target: str, learner: str, seed: int, **values: Any) -> Request:
        """What one run is asked for: its share of what was given, and `values` on top."""
        given = {**self.request.given, "support": self.support}
        open_ones = learner_named(learner).for_strangers(self.targets, given)
        filled = {name: value for name, value in open_ones.items() if name not in self.request.given}
        chosen = {**filled, **values, **self.numbered(target, learner), "target": target, "seed": seed}
        return self.request.for_learner(learner, **chosen)

    def short(self, path: Path) -> str:
        """A run's folder as seen from that of all runs: what it is called where people look."""
        return path.relative_to(self.out).as_posix()

    def as_seen(self, path: Path) -> str:
        """A folder as seen from the study's own: it stays right where all of them are moved together."""
        return os.path.relpath(path, self.place).replace(os.sep, "/")

    @property
    def tracked(self) -> bool:
        """Whether its runs are told to W&B."""
        return wandb_mode(tracking_of(self.request)) != "disabled"
