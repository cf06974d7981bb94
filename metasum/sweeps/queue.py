"""Who runs what: every place of a sweep is run to its end once, by whoever is alive.

A sweep of N trials has places 0 to N - 1. A process claims the lowest free place by creating a trial for it: Optuna's
storages number trials one after the other, so that of two trials for one place the later one sees the earlier one and
gives way. A trial whose process gives no sign of life any more is marked as lost, which frees its place.

Optuna's own queue (`study.enqueue_trial`, then `study.ask`) was tried instead, and does not do it: of three processes
that begin at the same instant, each enqueues the places that it does not see yet, so that places ran two or three
times on a journal as on SQLite, and on SQLite (Optuna 5.0) `ask` gave one waiting trial to two of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metasum.errors import UsageError
from metasum.sweeps.claim import Claim, Watch, is_lost, lose
from metasum.sweeps.config import SweepConfig
from metasum.sweeps.storage import Clock, patiently
from metasum.sweeps.sweep_file import SweepFile

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


class TrialQueue:
    """One sweep's places, seen by one of the processes that share them.

    Args:
        storage: shared by all.
        file: the sweep.
        config: its `seed`, on which a place's values depend, beside the place and (bayes) what is finished by then; and
            its `grace`: seconds without a sign of life after which a trial is lost, unless its process was on this
            machine and is gone.
        name: of the study in the storage.
        count: N.
        arguments: fixed ones of the command; part of what a sweep is.
        clock: tells how long ago a sign of life was.

    Raises:
        UsageError: the storage holds a sweep of another file, or with other arguments, under this name.
    """

    def __init__(
        self,
        storage: BaseStorage,
        file: SweepFile,
        config: SweepConfig,
        *,
        name: str,
        count: int,
        arguments: Sequence[str] = (),
        clock: Clock = time,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage, self._file, self._config, self.count = storage, file, config, count
        self._clock, self._watch = clock, Watch(config.grace, clock)
        goal = optuna.study.StudyDirection[(file.metric.goal if file.metric else "minimize").upper()]
        self.study: Study = patiently(
            lambda: optuna.create_study(storage=storage, study_name=name, direction=goal, load_if_exists=True), clock
        )
        self._study_id = storage.get_study_id_from_name(name)
        self._check(name, {"file": file.checksum, "seed": config.seed, "arguments": list(arguments)})

    def _check(self, name: str, sweep: Mapping[str, Any]) -> None:
        there = self.study.user_attrs
        for key, value in sweep.items():
            if key not in there:
                self.study.set_user_attr(key, value)
            elif there[key] != value:
                what = {"file": "another sweep file, or read otherwise by an older metasum", "seed": "another --seed"}
                raise UsageError(f"{name} was begun with {what.get(key, 'other arguments')}; choose another --name.")

    def trials(self) -> list[FrozenTrial]:
        """All trials, lost ones too."""
        return self.study.get_trials(deepcopy=False)

    def free(self) -> list[int]:
        """Places that nobody runs or has run; none where a trial has reached the metric's target."""
        trials, metric = self.trials(), self._file.metric
        taken = {trial.user_attrs["place"] for trial in trials if not is_lost(trial)}
        if metric is not None and self._file.target is not None:
            found = [trial.value for trial in trials if trial.state.name == "COMPLETE" and trial.value is not None]
            if any(metric.sign * value <= metric.sign * self._file.target for value in found):
                return []
        return [place for place in range(self.count) if place not in taken]

    def running(self) -> int:
        """How many trials are under way, anywhere."""
        return sum(trial.state.name == "RUNNING" for trial in self.trials())

    def claim(self) -> Claim | None:
        """A trial to run; None where no place is free now."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import Trial

        self._lose_dead_ones()
        while places := self.free():
            place = places[0]
            lost = [trial for trial in self.trials() if trial.user_attrs["place"] == place]
            begun = next((trial for trial in reversed(lost) if len(trial.params) == len(self._file.parameters)), None)
            trial_id = self._storage.create_new_trial(self._study_id, self._begun(place, begun))
            if self._is_taken(trial_id, place):
                lose(self._storage, trial_id)
                continue
            self.study.sampler = _sampler(self._file.method, self._config.seed, place)
            with contextlib.suppress(UpdateFinishedTrialError):
                trial = Trial(self.study, trial_id)
                values = {one.name: one.suggested(trial) for one in self._file.parameters}
                trial.set_user_attr("values", values)
                earlier = [t.user_attrs["folder"] for t in reversed(lost) if "folder" in t.user_attrs]
                return Claim(place, trial, values, earlier, self._file, self._config.grace, self._clock)
        return None

    def _begun(self, place: int, lost: FrozenTrial | None) -> FrozenTrial:
        """A trial as it is created: running, ours, with the values of a lost one where there is one."""
        from optuna.trial import TrialState, create_trial

        fixed = dict(lost.params) if lost is not None else {}
        if self._file.method == "grid":
            fixed = self._file.combination(place)
        return create_trial(
            state=TrialState.RUNNING,
            user_attrs={"place": place, "owner": self._watch.own, "beat": 0.0},
            system_attrs={"fixed_params": fixed} if fixed else {},
        )

    def _is_taken(self, trial_id: int, place: int) -> bool:
        """Whether an earlier trial has the place."""
        own = self._storage.get_trial(trial_id).number
        same = (trial for trial in self.trials() if trial.user_attrs["place"] == place and trial.number < own)
        return any(not is_lost(trial) for trial in same)

    def _lose_dead_ones(self) -> None:
        for trial in self.trials():
            notes = trial.user_attrs
            if trial.state.name == "RUNNING" and self._watch.is_dead(notes["owner"], trial.number, notes["beat"]):
                lose(self._storage, trial._trial_id)


def _sampler(method: str, seed: int, place: int) -> Any:
    """Optuna's sampler; each place has its own seed, so that no two processes draw the same."""
    from optuna.samplers import GPSampler, RandomSampler

    own = (seed * 1_000_003 + place) % 2**31
    return GPSampler(seed=own, warn_independent_sampling=False) if method == "bayes" else RandomSampler(seed=own)
