"""The cells of a study: one run for each learner and seed on one pair, skipped where finished, resumed where not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metasum.assembly.meta_training import meta_datasets
from metasum.assembly.parts import make_networks, private_settings, resolve, settings_for
from metasum.assembly.training import run_in
from metasum.baselines.registry import learner_named
from metasum.config import TrainConfig, flat
from metasum.errors import ArchitectureError, Interrupted, MetaSumError, UsageError, reason
from metasum.ownership import in_turn
from metasum.results.run import RunResult
from metasum.results.surroundings import Failed, Tried, Tuned
from metasum.training.progress import Display
from metasum.training.wandb_runs import TrackerTroubles, wandb_mode
from metasum.types import Dataset, Sides


@dataclass
class Cells:
    """Runs of several learners and seeds that share everything else: steps, data, order of batches, initialisation.

    A failed cell is noted in `failed` and does not stop the others. One that another process works on is waited for.
    """

    config: TrainConfig
    datasets: Sides[Dataset]
    folder: Path
    """Where the run folders lie."""
    out: Path
    """Folder of all runs."""
    displays: Callable[[], Display]
    """Makes a display for each run."""
    failed: list[Failed] = field(default_factory=list)
    total: int = 0
    """How many runs are to come, for the notes; 0 where nobody knows."""
    number: int = 0
    """Which of the networks that are to be added the target's is, for learners that must know."""
    troubles: TrackerTroubles = field(default_factory=TrackerTroubles)
    """With trackers, so far."""
    started: int = 0
    _trained: dict[str, Path | None] = field(default_factory=dict)  # by the folder's name; None: failed

    def run(
        self,
        learner: str,
        seed: int,
        chosen: Mapping[str, Any],
        *,
        name: str | None = None,
        report: bool = False,
        keep_weights: bool = True,
    ) -> RunResult | None:
        """One cell's result; None where it failed.

        Args:
            learner: its name.
            seed: of the run.
            chosen: settings that differ from `config`.
            name: of the run's folder [default: `<learner>-seed<seed>`].
            report: draw its report.
            keep_weights: whether its networks are saved.
        """
        numbered = _numbered(learner, self.number)
        suffix = "".join(f"-{setting}{number}" for setting, number in numbered.items())
        path = self.folder / f"{name or f'{learner}-seed{seed}'}{suffix}"
        chosen = {**chosen, **numbered}
        if wandb_mode(self.config.tracking) != "disabled":
            chosen["wandb_name"] = path.relative_to(self.out).as_posix()
        self.started += 1
        display = self.displays()
        display.note(f"{self.started}/{self.total}  {path.name}" if self.total else path.name)
        endpoints = None
        if learner_named(learner).endpoints is not None:
            endpoints = self._endpoints(str(learner_named(learner).endpoints), seed)
            if endpoints is None:
                self._fail(path, learner, seed, "the networks that it merges could not be trained")
                return None
        try:
            result = in_turn(
                lambda: run_in(
                    path,
                    settings_for(learner, self.config, seed=seed, **chosen),
                    self.datasets,
                    out=self.out,
                    resume=None,
                    report=report,
                    endpoints=endpoints,
                    keep_weights=keep_weights,
                    display=display,
                    troubles=self.troubles,
                ),
                display.note,
            )
            self._trained[path.name] = path
            return result
        except Interrupted:
            raise
        except MetaSumError as error:
            self._fail(path, learner, seed, str(error))
        except Exception as error:  # noqa: BLE001 (whatever one cell dies of, the others go on)
            self._fail(path, learner, seed, f"{type(error).__name__}: {reason(error)}")
        return None

    def _endpoints(self, learner: str, seed: int) -> Path | None:
        """Where a merging method's networks lie, trained by now, with these very settings; None where that failed."""
        name = f"{learner}-seed{seed}"
        if name not in self._trained:
            before = self.started
            self.run(learner, seed, {})
            self.started = before
        return self._trained[name]

    def _fail(self, path: Path, learner: str, seed: int, error: str) -> None:
        self._trained[path.name] = None
        self.failed.append(Failed(learner, seed, error, str(path)))
        self.displays().note(f"{path.name} failed: {error}")


def _numbered(learner: str, number: int) -> dict[str, int]:
    """The setting that tells a learner which of the networks to be added its target's is; {} for the first."""
    setting = learner_named(learner).numbered
    return {setting: number} if setting is not None and number else {}


def tune(cells: Cells, learner: str, seed: int, candidates: Sequence[Mapping[str, Any]]) -> Tuned:
    """The candidate whose sum does best on validation images, and every candidate's score.

    The score is the mean of the accuracies after the sum on target and support.
    """
    tried: list[Tried] = []
    for candidate in candidates:
        label = ",".join(f"{name}={value}" for name, value in candidate.items())
        result = cells.run(learner, seed, candidate, name=f"{learner}-seed{seed}-{label}", keep_weights=False)
        if result is not None:
            tried.append(Tried(dict(candidate), result.accuracy.mean_after))
    return Tuned.best_of(tried)


def check_learners(learners: Sequence[str], config: TrainConfig, datasets: Sides[Dataset], *, number: int = 0) -> None:
    """Raises what the settings alone would have every cell fail with, before anything is written; see `Cells`.

    Raises:
        UsageError: an unknown learner, one named twice, settings that go together with no network, or a setting that
            none of the learners reads.
        ArchitectureError: no learner can take this network.
    """
    doubled = next((name for name in learners if list(learners).count(name) > 1), None)
    if doubled or not learners:
        raise UsageError(f"--learners names {doubled!r} twice." if doubled else "--learners names nobody.")
    read = {name for learner in learners for name in learner_named(learner).settings}
    default, given = flat(TrainConfig()), flat(config)
    unread = next((name for name in sorted(private_settings() - read) if given[name] != default[name]), None)
    if unread:
        raise UsageError(f"--{unread.replace('_', '-')} says nothing to any of the learners {', '.join(learners)}.")
    refusals = []
    for learner in learners:
        if learner_named(learner).meta_learnt and config.network.init is None:
            meta_datasets(config, held_out=[config.data.target])
        resolved = resolve(settings_for(learner, config, **_numbered(learner, number)), datasets)
        try:
            learner_named(learner).factory(make_networks(resolved), resolved)  # refuses what the learner cannot take
        except ArchitectureError as error:  # one learner's business, unless there is no other
            refusals.append(error)
    if len(refusals) == len(learners):
        raise refusals[0]
