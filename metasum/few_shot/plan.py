"""The plan of one learner's few-shot run: everything that it depends on, with nothing open any more."""

from __future__ import annotations

import dataclasses
from typing import Any

from metasum.baselines.registry import FEW_SHOT
from metasum.config.sections import MonitorConfig, OptimisationConfig
from metasum.few_shot.config import EpisodesConfig, MetaTrainingConfig, PretrainingConfig, UpdatesConfig
from metasum.learners.few_shot import FewShotLearner, FewShotTask

PRETRAINING_RATE = 1e-3
# What a run is made of, beside its learner's own settings: one with others is another run.
OF_EVERY_RUN = ("dataset", "ways", "shots", "queries", "in_channels", "filters", "episodes", "evaluate_on", "precision")
OF_EPISODES = ("ways", "shots", "queries")
OF_PRETRAINING = ("dataset", "in_channels", "filters", "precision")


@dataclasses.dataclass(frozen=True)
class Loop:
    """What the training loop reads."""

    seed: int
    optimisation: OptimisationConfig
    monitor: MonitorConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotPlan:
    """Everything that one learner's run depends on; nothing is open any more."""

    learner: str
    seed: int
    own: Any
    """The learner's own settings."""
    episodes: EpisodesConfig
    updates: UpdatesConfig
    meta_training: MetaTrainingConfig
    pretraining: PretrainingConfig
    trunk: Any
    """How the trunk is measured while it is pretrained."""

    @property
    def learner_class(self) -> type[FewShotLearner]:
        return FEW_SHOT.named(self.learner)

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.learner}-seed{self.seed}"

    @property
    def pretrained_name(self) -> str:
        """Of the folder of the trunk that it starts from."""
        return f"pretrained-seed{self.seed}"

    @property
    def task(self) -> FewShotTask:
        asked = self.episodes
        return FewShotTask(ways=asked.ways, shots=asked.shots, in_channels=asked.in_channels, filters=asked.filters)

    def settings(self) -> dict[str, Any]:
        """Those that the run's weights and accuracy depend on, as config.json holds them."""
        learner = self.learner_class
        found = {name: getattr(self.episodes, name) for name in OF_EVERY_RUN} | {"seed": self.seed}
        found |= dataclasses.asdict(self.own)
        if learner.meta_trains:
            found |= dataclasses.asdict(self.meta_training)
            found |= self._update_settings()
        if learner.pretrained:
            found |= dataclasses.asdict(self.pretraining)
        return {**found, "learner": self.learner}

    def pretraining_settings(self) -> dict[str, Any]:
        """Those that the trunk depends on."""
        found = {name: getattr(self.episodes, name) for name in OF_PRETRAINING} | {"seed": self.seed}
        found |= dataclasses.asdict(self.pretraining)
        if self.updates.patience is not None:  # how it is measured decides where it stops
            found |= {name: getattr(self.episodes, name) for name in OF_EPISODES} | dataclasses.asdict(self.trunk)
        return found | self._update_settings()

    def _update_settings(self) -> dict[str, Any]:
        """Of how weights move; what evaluations are of is among them where they decide when to stop."""
        updates = self.updates
        found: dict[str, Any] = {"schedule": updates.schedule, "clip": updates.clip, "patience": updates.patience}
        if updates.patience is not None:
            found |= {
                "evaluate_every": updates.evaluate_every,
                "validation_episodes": self.episodes.validation_episodes,
            }
        return found

    def loop(self) -> Loop:
        """How it is meta-trained."""
        return self._loop(self.meta_training.steps, self.meta_training.learning_rate)

    def pretraining_loop(self) -> Loop:
        """How the trunk is trained."""
        return self._loop(self.pretraining.pretraining_steps, PRETRAINING_RATE)

    def _loop(self, steps: int, learning_rate: float) -> Loop:
        updates = self.updates
        optimisation = OptimisationConfig(
            steps=steps,
            learning_rate=learning_rate,
            schedule=updates.schedule,
            clip=updates.clip,
            precision=self.episodes.precision,
            device=self.episodes.device,
        )
        monitor = MonitorConfig(
            log_every=updates.log_every,
            evaluate_every=updates.evaluate_every,
            checkpoint_every=updates.checkpoint_every,
        )
        return Loop(self.seed, optimisation, monitor)
