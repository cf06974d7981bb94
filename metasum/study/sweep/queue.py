"""Who runs what: every place of a sweep is run to its end once, by whoever is alive.

A sweep of N trials has places 0 to N - 1. A process claims the lowest free place by creating a trial for it: Optuna's
storages number trials one after the other, so that of two trials for one place the later one sees the earlier one and
gives way. A trial whose process gives no sign of life any more is marked as lost, which frees its place.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metasum.errors import UsageError
from metasum.study.sweep.owner import is_dead, this_process
from metasum.study.sweep.storage import patiently
from metasum.study.sweep.sweep_file import SweepFile

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial


@dataclass
class Claim:
    """A trial that this process has to run."""

    place: int
    trial: Trial
    values: dict[str, Any]
    """Of the command's options."""
    earlier: Sequence[str]
    """Folders that lost trials of this place worked in, the last one first."""
    reports: int = 0
    """Evaluations that Optuna was told of."""
    beats: int = 0
    beaten_at: float = field(default_factory=time.monotonic)


class TrialQueue:
    """One sweep's places, seen by one of the processes that share them.

    Args:
        storage: shared by all.
        file: the sweep.
        name: of the study in the storage.
        count: N.
        seed: of random and bayes; a place's values depend on it, the place, and (bayes) on what is finished by then.
        arguments: fixed ones of the command; part of what a sweep is.
        grace: seconds without a sign of life after which a trial is lost. Of a process on this machine that is no
            longer there, none.

    Raises:
        UsageError: the storage holds a sweep of another file, or with other arguments, under this name.
    """

    def __init__(
        self,
        storage: BaseStorage,
        file: SweepFile,
        *,
        name: str,
        count: int,
        seed: int = 0,
        arguments: Sequence[str] = (),
        grace: float = 120.0,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage, self._file, self.count, self._seed, self._grace = storage, file, count, seed, grace
        goal = optuna.study.StudyDirection[(file.metric.goal if file.metric else "minimize").upper()]
        self.study: Study = patiently(
            lambda: optuna.create_study(
                storage=storage, study_name=name, direction=goal, pruner=_pruner(file), load_if_exists=True
            )
        )
        self._study_id = storage.get_study_id_from_name(name)
        self._check(name, {"file": file.checksum, "seed": seed, "arguments": list(arguments)})
        self._owner = this_process()
        self._heard: dict[int, tuple[Any, float]] = {}  # trial: its last sign of life, and when we first saw it

    def _check(self, name: str, sweep: Mapping[str, Any]) -> None:
        there = self.study.user_attrs
        for key, value in sweep.items():
            if key not in there:
                self.study.set_user_attr(key, value)
            elif there[key] != value:
                what = {"file": "another sweep file", "seed": f"--seed {there[key]}"}.get(key, "other arguments")
                raise UsageError(f"{name} was begun with {what}; choose another --name.")

    def trials(self) -> list[FrozenTrial]:
        """All trials, lost ones too."""
        return self.study.get_trials(deepcopy=False)

    def free(self) -> list[int]:
        """Places that nobody runs or has run."""
        trials, metric = self.trials(), self._file.metric
        taken = {trial.user_attrs["place"] for trial in trials if not is_lost(trial)}
        if metric is not None and metric.target is not None:
            found = [trial.value for trial in trials if trial.state.name == "COMPLETE" and trial.value is not None]
            if any(not metric.better(metric.target, value) for value in found):
                return []
        return [place for place in range(self.count) if place not in taken]

    def running(self) -> int:
        """How many trials are under way, anywhere."""
        return sum(trial.state.name == "RUNNING" for trial in self.trials())

    def claim(self) -> Claim | None:
        """A trial to run; None where no place is free now."""
        from optuna.trial import Trial

        self._bury()
        while places := self.free():
            place = places[0]
            lost = [trial for trial in self.trials() if trial.user_attrs["place"] == place]
            begun = next((trial for trial in reversed(lost) if len(trial.params) == len(self._file.parameters)), None)
            trial_id = self._storage.create_new_trial(self._study_id, self._begun(place, begun))
            if self._gives_way(trial_id, place):
                self._lose(trial_id)
                continue
            self.study.sampler = _sampler(self._file.method, self._seed, place)
            with _unless_finished():
                trial = Trial(self.study, trial_id)
                values = {one.name: one.value(one.suggested(trial)) for one in self._file.parameters}
                trial.set_user_attr("values", values)
                earlier = [t.user_attrs["folder"] for t in reversed(lost) if "folder" in t.user_attrs]
                return Claim(place, trial, values, earlier)
        return None

    def _begun(self, place: int, lost: FrozenTrial | None) -> FrozenTrial:
        """A trial as it is created: running, ours, with the values of a lost one where there is one."""
        from optuna.trial import TrialState, create_trial

        if self._file.method == "grid":
            fixed = self._file.combination(place)
        else:
            fixed = dict(lost.params) if lost is not None else {}
        return create_trial(
            state=TrialState.RUNNING,
            user_attrs={"place": place, "owner": self._owner, "beat": 0},
            system_attrs={"fixed_params": fixed} if fixed else {},
        )

    def _gives_way(self, trial_id: int, place: int) -> bool:
        """Whether an earlier trial has the place."""
        own = self._storage.get_trial(trial_id).number
        same = (trial for trial in self.trials() if trial.user_attrs["place"] == place and trial.number < own)
        return any(not is_lost(trial) for trial in same)

    def _bury(self) -> None:
        """Marks trials as lost whose process is dead."""
        now = time.monotonic()
        for trial in self.trials():
            if trial.state.name != "RUNNING" or trial.user_attrs["owner"] == self._owner:
                continue
            sign = trial.user_attrs["beat"]
            heard, since = self._heard.get(trial.number, (None, now))
            if heard != sign:
                since = now
            self._heard[trial.number] = (sign, since)
            if now - since > self._grace or is_dead(trial.user_attrs["owner"]):
                self._lose(trial._trial_id)

    def _lose(self, trial_id: int) -> None:
        from optuna.trial import TrialState

        with _unless_finished():
            self._storage.set_trial_user_attr(trial_id, "lost", True)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def beat(self, claim: Claim) -> bool:
        """A sign of life, from time to time; False where the trial was taken for lost, and is no longer ours."""
        now = time.monotonic()
        if now - claim.beaten_at < self._grace / 6:
            return True
        claim.beats, claim.beaten_at = claim.beats + 1, now
        with _unless_finished():
            claim.trial.set_user_attr("beat", claim.beats)
            return True
        return False

    def work_in(self, claim: Claim, folder: str) -> bool:
        """Writes down where a trial works; False where it is no longer ours."""
        with _unless_finished():
            claim.trial.set_user_attr("folder", folder)
            return True
        return False

    def is_bad(self, claim: Claim, value: float) -> bool | None:
        """Tells of the next evaluation: whether the trial is to be ended early; None where it is no longer ours."""
        claim.reports += 1
        with _unless_finished():
            claim.trial.report(value, claim.reports)
            return claim.trial.should_prune()
        return None

    def give_up(self, claim: Claim) -> None:
        """Frees the trial's place: this process is told to stop."""
        self._lose(claim.trial._trial_id)

    def finish(self, claim: Claim, state: str, value: float | None = None, **notes: Any) -> bool:
        """Writes down how a trial ended; False where it was no longer ours.

        Args:
            claim: which.
            state: "COMPLETE", "PRUNED" or "FAIL".
            value: of the metric; a sweep without one has 0.
            notes: what else is kept of it.
        """
        from optuna.trial import TrialState

        with _unless_finished():
            for key, note in notes.items():
                claim.trial.set_user_attr(key, note)
            values = [0.0 if value is None else value] if state == "COMPLETE" else None
            self._storage.set_trial_state_values(claim.trial._trial_id, TrialState[state], values)
            return True
        return False


def _unless_finished() -> contextlib.suppress:
    """Leaves the block where the trial that it writes to is finished: somebody took it for lost, or was quicker."""
    from optuna.exceptions import UpdateFinishedTrialError

    return contextlib.suppress(UpdateFinishedTrialError)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial's process died under it, or it gave way to an earlier one: its place is free."""
    return trial.state.name == "FAIL" and bool(trial.user_attrs.get("lost"))


def _sampler(method: str, seed: int, place: int) -> Any:
    """Optuna's sampler; each place has its own seed, so that no two processes draw the same."""
    from optuna.samplers import GPSampler, RandomSampler

    own = (seed * 1_000_003 + place) % 2**31
    return GPSampler(seed=own, warn_independent_sampling=False) if method == "bayes" else RandomSampler(seed=own)


def _pruner(file: SweepFile) -> Any:
    """W&B's hyperband is asynchronous successive halving of one bracket."""
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if file.halving is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=file.halving.first, reduction_factor=file.halving.eta)
