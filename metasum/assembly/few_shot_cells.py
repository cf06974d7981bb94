"""One few-shot learner, from settings to a run folder with its weights and its accuracy."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metasum.baselines.few_shot import few_shot_named
from metasum.baselines.meta_transfer.base_training import BaseTraining
from metasum.baselines.meta_transfer.learner import ClassifierTuning, MetaTransfer, Pretraining
from metasum.config import FewShotConfig
from metasum.errors import CheckpointError
from metasum.files import write_json
from metasum.learners.few_shot import FewShotLearner
from metasum.learners.protocol import Trainable
from metasum.ownership import in_turn
from metasum.results.accuracy import EpisodeAccuracy
from metasum.results.few_shot import FewShotRun, PretrainingResult
from metasum.tasks.episodes import ClassBatches, Episodes, EpisodeSampler
from metasum.tasks.few_shot import FewShotDataset
from metasum.training.description import describe_surroundings, reopen
from metasum.training.few_shot import FewShotEvaluator, episode_shares, mean_of
from metasum.training.harness import Harness, Sampler
from metasum.training.memory import peak_bytes
from metasum.training.opening import opened
from metasum.training.optimisation import make_fabric
from metasum.training.progress import Display
from metasum.training.run_folder import RunFolder
from metasum.types import FewShotEpisode
from metasum.weights.parameters import checksum, parameters_of
from metasum.weights.storage import load_into

PRETRAINING_BATCH, PRETRAINING_RATE = 64, 1e-3
EPISODES = "episodes.json"
# Which settings runs depend on, beside their learner's own: all runs, those that meta-train, the pretrained trunk.
ALWAYS = (
    "dataset",
    "ways",
    "shots",
    "queries",
    "in_channels",
    "filters",
    "seed",
    "episodes",
    "evaluate_on",
    "precision",
)
META_TRAINING = ("steps", "learning_rate", "schedule", "clip", "meta_batch")
PRETRAINING = ("dataset", "in_channels", "filters", "seed", "precision", "pretraining_steps", "schedule", "clip")


class FewShotCells:
    """The runs of one command: a folder each, `<learner>-seed<seed>`, and one for the trunk that some share.

    Args:
        config: what they share; `seed` is the first one's.
        dataset: images of many classes.
        folder: where the runs' folders are.
        displays: makes what is told about each run's progress.
    """

    def __init__(
        self, config: FewShotConfig, dataset: FewShotDataset, *, folder: Path, displays: Callable[[], Display]
    ) -> None:
        self.config, self.dataset, self._folder, self._displays = config, dataset, folder, displays
        self.fabric = make_fabric(config.optimisation)
        for part in ("train", "validation", config.evaluate_on):  # refuses what the dataset cannot give
            self.episodes(part)

    def run(self, learner: str, seed: int) -> tuple[FewShotRun, FewShotLearner]:
        """The result of one learner's run, and the learner.

        What is finished is taken as it is, and what another process works on is waited for.
        """
        return in_turn(lambda: self._run(learner, seed), self._displays().note)

    def _run(self, learner: str, seed: int) -> tuple[FewShotRun, FewShotLearner]:
        entry = few_shot_named(learner)
        own = dataclasses.replace(
            self.config, seed=seed, learning_rate=self.config.learning_rate or entry.learning_rate
        )
        start = self._pretrained(seed) if entry.pretrained else nn.Sequential()
        model = self.seeded(lambda: entry.factory(own, start), seed)
        more = {"start_checksum": checksum(parameters_of(start))} if entry.pretrained else {}
        with self._open(f"{learner}-seed{seed}", own, settings_of(learner), {"learner": learner}, **more) as run:
            if run.finished:
                load_into(model, run.path / "learner.safetensors")
                return run.result(FewShotRun), model
            trained: dict[str, Any] = {"steps": 0, "seconds": 0.0, "episodes_per_second": None, "peak_bytes": None}
            if entry.meta_trains:
                trained = self.train(model, run, own)
            run.save_weights("learner", model.state_dict())
            shares = self._shares(model)
            write_json(run.path / EPISODES, {"shares": shares})
            result = FewShotRun(
                learner=learner,
                seed=seed,
                **trained,
                parameters=sum(parameter.numel() for group in model.parameter_groups() for parameter in group),
                accuracy=mean_of(shares),
                evaluated_on=own.evaluate_on,
                run=str(run.path),
            )
            write_json(run.path / "result.json", result.to_json())
            return result, model

    def train(self, model: FewShotLearner, run: RunFolder, config: FewShotConfig) -> dict[str, Any]:
        """Meta-trains on the dataset's training classes, or goes on where it was stopped; returns what it took."""
        hard = config.hard_tasks and isinstance(model, MetaTransfer)
        sampler = EpisodeSampler(self.episodes("train", seed=config.seed), tasks=config.meta_batch, hard=hard)
        if hard:
            model.remember = sampler.remember
        harness = self._harness(model, sampler, run, config)
        harness.resume()
        harness.train(title=f"{run.path.name} on {self.dataset.name}")
        if config.evaluate_every:
            harness.record_final(harness.evaluator.on_the_way(model))
        model.remember = None
        drawn = harness.steps * config.meta_batch
        return {
            "steps": harness.steps,
            "seconds": round(harness.seconds, 2),
            "episodes_per_second": round(drawn / harness.seconds, 2),
            "peak_bytes": peak_bytes(self.fabric.device),
        }

    def measure(self, model: FewShotLearner, *, ways: int | None = None) -> EpisodeAccuracy:
        """Accuracy on the final episodes, the same for every learner; of other ways than trained with where asked."""
        return mean_of(self._shares(model, ways=ways))

    def shares(self, result: FewShotRun) -> list[float]:
        """Of a finished run, what it got right in each final episode."""
        return list(RunFolder.open(Path(result.run)).read_json(EPISODES)["shares"])

    def _shares(self, model: FewShotLearner, *, ways: int | None = None) -> list[float]:
        episodes = first(self.episodes(self.config.evaluate_on, ways=ways), self.config.episodes)
        return episode_shares(model.to(self.fabric.device), episodes, autocast=self.fabric.autocast)

    def episodes(self, part: str, *, ways: int | None = None, seed: int = 0) -> Episodes:
        """Episodes of one part of the dataset."""
        return Episodes(
            self.dataset,
            part,
            ways=ways or self.config.ways,
            shots=self.config.shots,
            queries=self.config.queries,
            in_channels=self.config.in_channels,
            device=self.fabric.device,
            seed=seed,
        )

    def on(self, dataset: FewShotDataset) -> FewShotCells:
        """The same, on another dataset."""
        return FewShotCells(self.config, dataset, folder=self._folder, displays=self._displays)

    def opened(
        self, name: str, config: FewShotConfig, learner: str, model: FewShotLearner, dataset: FewShotDataset
    ) -> contextlib.AbstractContextManager[RunFolder]:
        """The folder of a learner's further run on another dataset, from where it stands, for a block to work in."""
        more = {"learner": learner, "then": dataset.name, "then_checksum": dataset.checksum}
        start = checksum(parameters_of(model))
        return self._open(name, config, settings_of(learner), more, start_checksum=start)

    def _pretrained(self, seed: int) -> nn.Sequential:
        """The network that was trained on all meta-training classes at once; trained now, or taken as it is."""
        own, classes = dataclasses.replace(self.config, seed=seed), len(self.dataset.classes["train"])
        own = dataclasses.replace(own, steps=own.pretraining_steps, learning_rate=PRETRAINING_RATE)
        model: Pretraining = self.seeded(
            lambda: Pretraining(classes=classes, in_channels=own.in_channels, filters=own.filters), seed
        )
        with self._open(f"pretrained-seed{seed}", own, PRETRAINING, {}) as run:
            if run.finished:
                load_into(model.network, run.path / "learner.safetensors")
                return model.network
            batches = ClassBatches(
                self.dataset,
                "train",
                batch_size=PRETRAINING_BATCH,
                generator=torch.Generator().manual_seed(seed),
                in_channels=own.in_channels,
                device=self.fabric.device,
            )
            base = BaseTraining(steps=own.base_steps, learning_rate=own.base_lr)
            harness = self._harness(
                model, batches, run, own, view=lambda it: ClassifierTuning(it.network, ways=own.ways, base=base)
            )
            harness.resume()
            harness.train(title=f"pretraining on {classes} classes of {self.dataset.name}")
            run.save_weights("learner", model.network.state_dict())
            write_json(run.path / "result.json", PretrainingResult(harness.steps, round(harness.seconds, 2)).to_json())
            return model.network

    def seeded(self, make: Callable[[], Any], seed: int = 0) -> Any:
        """What `make` makes with this seed, on the device; the global random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = make()
        return None if made is None else made.to(self.fabric.device)

    def _harness(
        self,
        model: Trainable,
        sampler: Sampler,
        run: RunFolder,
        config: FewShotConfig,
        view: Callable[[Any], FewShotLearner] = lambda learner: learner,
    ) -> Harness[Any, FewShotEvaluator]:
        return Harness(
            model,
            sampler,
            evaluator=FewShotEvaluator(lambda: self._validation, autocast=self.fabric.autocast, view=view),
            config=config,
            fabric=self.fabric,
            run=run,
            display=self._displays(),
        )

    @cached_property
    def _validation(self) -> list[FewShotEpisode]:
        return list(first(self.episodes("validation"), self.config.validation_episodes))

    def _open(
        self,
        name: str,
        config: FewShotConfig,
        depends_on: Iterable[str],
        more: Mapping[str, str],
        **description: Any,
    ) -> contextlib.AbstractContextManager[RunFolder]:
        """The run folder `name`, made or found, for a block to work in.

        Raises:
            OccupiedError: another process works there.
            UsageError: it holds a run of other settings.
        """
        description |= {
            "settings": {setting: getattr(config, setting) for setting in depends_on} | dict(more),
            "data": {"name": self.dataset.name, "source": self.dataset.source, "checksum": self.dataset.checksum},
            **describe_surroundings(),
        }
        path = self._folder / name
        return opened(
            path,
            description,
            lambda: reopen(path, description, completed=_as_written),
            resume=None,
            note=self._displays().note,
        )


def settings_of(learner: str) -> tuple[str, ...]:
    """Names of the settings that a learner's run depends on."""
    entry = few_shot_named(learner)
    return (
        *ALWAYS,
        *entry.settings,
        *(META_TRAINING if entry.meta_trains else ()),
        *(("pretraining_steps",) if entry.pretrained else ()),
    )


def first(episodes: Episodes, count: int) -> Iterable[FewShotEpisode]:
    """Episodes 0 to `count` - 1."""
    return (episodes[number] for number in range(count))


def _as_written(settings: Mapping[str, Any]) -> dict[str, Any]:
    if "dataset" not in settings:
        raise CheckpointError("these are not the settings of a few-shot run.")
    return dict(settings)
