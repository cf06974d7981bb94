"""What every cell of the study does: draw episodes, train, measure, load what was learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from metasum.baselines.meta_transfer.pretraining import Pretraining
from metasum.few_shot.measuring import FewShotEvaluator, episode_shares, mean_of
from metasum.few_shot.plan import FewShotPlan, Loop
from metasum.few_shot.request import FewShotRequest
from metasum.learners.few_shot import FewShotLearner
from metasum.learners.trainable import Trainable
from metasum.results.accuracy import EpisodeAccuracy
from metasum.tasks.episodes import Episodes, EpisodeSampler
from metasum.tasks.few_shot import FewShotDataset
from metasum.training.harness import Harness
from metasum.training.memory import peak_bytes
from metasum.training.optimisation import make_fabric
from metasum.training.patience import Patience
from metasum.training.progress import Display
from metasum.training.roles import Sampler
from metasum.training.run_folder import RunFolder
from metasum.types import FewShotEpisode
from metasum.weights.storage import load_into

if TYPE_CHECKING:
    from lightning_fabric import Fabric

M = TypeVar("M", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Course:
    """One learner's way from what was asked to run folders.

    It can be sent to another process. What is made of it there, its plan too, does not travel: a plug-in's classes
    have no module that they could be found in.
    """

    request: FewShotRequest
    learner: str
    seed: int
    dataset: FewShotDataset
    study: Path
    """The folder with the runs' folders."""

    @cached_property
    def plan(self) -> FewShotPlan:
        return self.request.plan(self.learner, self.seed)

    @cached_property
    def fabric(self) -> Fabric:
        return make_fabric(self.plan.episodes.device, self.plan.episodes.precision)

    @cached_property
    def validation(self) -> list[FewShotEpisode]:
        """The episodes that are measured on while training."""
        episodes = self.episodes("validation")
        return [episodes[number] for number in range(self.plan.episodes.validation_episodes)]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # without what is cached

    def going_on(self, steps: int) -> Course:
        """The same with so many steps of meta-training."""
        return self.having(steps=steps)

    def having(self, **values: Any) -> Course:
        """The same with other settings."""
        return dataclasses.replace(self, request=self.request.having(**values))

    def trying(self, candidate: Mapping[str, Any]) -> Course:
        """The same for a trial of these settings."""
        return dataclasses.replace(self, request=self.request.trying(candidate))

    def on(self, dataset: FewShotDataset) -> Course:
        """The same on another dataset."""
        return dataclasses.replace(self, dataset=dataset)

    def episodes(self, part: str, *, ways: int | None = None, seed: int = 0) -> Episodes:
        """Episodes of one part of the dataset; raises UsageError where it cannot give them.

        Args:
            part: "train", "validation" or "test".
            ways: classes in an episode [default: as many as it is trained with].
            seed: of the draws.
        """
        asked = self.plan.episodes
        return Episodes(
            self.dataset,
            part,
            ways=ways or asked.ways,
            shots=asked.shots,
            queries=asked.queries,
            in_channels=asked.in_channels,
            device=self.fabric.device,
            seed=seed,
        )

    def shares(self, model: FewShotLearner, *, ways: int | None = None) -> list[float]:
        """What it gets right in each of the final episodes, which are the same for every learner."""
        episodes = self.episodes(self.plan.episodes.evaluate_on, ways=ways)
        drawn = (episodes[number] for number in range(self.plan.episodes.episodes))
        return episode_shares(model.to(self.fabric.device), drawn, autocast=self.fabric.autocast)

    def measure(self, model: FewShotLearner, *, ways: int | None = None) -> EpisodeAccuracy:
        """The mean of the same."""
        return mean_of(self.shares(model, ways=ways))

    def seeded(self, make: Callable[[], M], seed: int = 0) -> M:
        """What `make` makes with this seed, on the device; the global random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = make()
        return made.to(self.fabric.device)

    def new_pretraining(self) -> Pretraining:
        """The network that is to learn all meta-training classes, at its start."""
        plan, classes = self.plan, len(self.dataset.classes["train"])
        return self.seeded(lambda: Pretraining(plan.task, plan.trunk, classes=classes), plan.seed)

    def trunk(self) -> nn.Sequential | None:
        """The network that was trained so, from its finished run; None where the learner needs none."""
        if not self.plan.learner_class.pretrained:
            return None
        network = self.new_pretraining().network
        load_into(network, self.study / self.plan.pretrained_name / "learner.safetensors")
        return network

    def new_learner(self, trunk: nn.Sequential | None) -> FewShotLearner:
        """The learner at its start."""
        plan = self.plan
        return self.seeded(lambda: plan.learner_class(plan.task, plan.own, trunk), plan.seed)

    def trained_learner(self) -> FewShotLearner:
        """The learner as its finished run left it."""
        model = self.new_learner(self.trunk())
        load_into(model, self.study / self.plan.name / "learner.safetensors")
        return model

    def meta_train(self, model: FewShotLearner, run: RunFolder, display: Display) -> dict[str, Any]:
        """Trains on episodes of the training classes, or goes on where that was stopped; returns what it took."""
        tasks = self.plan.meta_training.meta_batch
        sampler = EpisodeSampler(self.episodes("train", seed=self.plan.seed), tasks=tasks, hard=model.hard_tasks)
        model.remember = sampler.remember if model.hard_tasks else None
        harness = self.harness(model, sampler, self.plan.loop(), run, display)
        harness.resume()
        harness.train(title=f"{run.path.name} on {self.dataset.name}")
        if self.plan.updates.evaluate_every and harness.patience is None:  # which has the last step measured itself
            harness.record_final(harness.evaluator.on_the_way(model))
        model.remember = None
        return {
            **taken(harness),
            "episodes_per_second": round(harness.step * tasks / harness.seconds, 2),
            "peak_bytes": peak_bytes(self.fabric.device),
        }

    def harness(
        self,
        model: Trainable,
        sampler: Sampler,
        loop: Loop,
        run: RunFolder,
        display: Display,
        view: Callable[[Any], FewShotLearner] = lambda learner: learner,
    ) -> Harness[Any, FewShotEvaluator]:
        """The training loop of one run; the model is on the device already.

        `view` leads from what is trained to the few-shot learner that is measured on the way [default: it is one].
        """
        evaluator = FewShotEvaluator(lambda: self.validation, self.fabric.autocast, view)
        harness = Harness(
            model, sampler, evaluator=evaluator, config=loop, fabric=self.fabric, run=run, display=display
        )
        if self.plan.updates.patience is not None:
            harness.patience = Patience(self.plan.updates.patience, score=lambda accuracy: accuracy.mean)
        return harness


def taken(harness: Harness[Any, Any]) -> dict[str, Any]:
    """What a training took, as results have it: "steps", "seconds", and with patience "best_step"."""
    found: dict[str, Any] = {"steps": harness.step, "seconds": round(harness.seconds, 2)}
    if harness.patience is not None and harness.patience.best is not None:
        found["best_step"] = harness.patience.best.step
    return found
