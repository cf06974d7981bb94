"""The only training loop. Learners own no loop; everything that repeats is here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from metasum.config import TrainConfig
from metasum.errors import ArchitectureError, CheckpointError, DivergenceError, Interrupted
from metasum.learners.protocol import Learner
from metasum.training.evaluation import Evaluation, Evaluator
from metasum.training.interruption import Interruption
from metasum.training.optimisation import Updater
from metasum.training.progress import Display
from metasum.training.run_folder import RunFolder
from metasum.types import Episode

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Sampler(Iterator[Episode], Protocol):
    """Episodes for ever, from a state that can be saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Harness:
    """Trains a learner into a run folder: logging, evaluating, checkpointing, resuming.

    Args:
        learner: on `fabric`'s device already.
        sampler: where episodes come from.
        evaluator: measures accuracies before and after the sum.
        config: resolved settings (steps, batch size and learning rate are numbers).
        fabric: device and precision.
        run: the folder to write into.
        display: what is told to the user.
    """

    def __init__(
        self,
        learner: Learner,
        sampler: Sampler,
        *,
        evaluator: Evaluator,
        config: TrainConfig,
        fabric: Fabric,
        run: RunFolder,
        display: Display,
    ) -> None:
        if config.optimisation.steps is None or config.data.batch_size is None:
            raise ValueError("steps and batch_size must be resolved before training")
        self.learner, self.sampler, self.evaluator = learner, sampler, evaluator
        self.config, self.fabric, self.run, self.display = config, fabric, run, display
        self.steps, self.monitor = config.optimisation.steps, config.monitor
        self.images_per_step = 2 * config.data.batch_size
        self.updater = Updater(learner, config.optimisation, fabric)
        self.step, self.seconds, self.evaluation_seconds = 0, 0.0, 0.0
        self._random: dict[str, Any] | None = None
        self._unread: list[dict[str, Tensor]] = []  # loss terms of steps since the last log line, on the device

    def train(self, *, title: str) -> None:
        """Runs the steps that are left, then leaves a checkpoint.

        Raises:
            DivergenceError: a loss or weight became NaN or infinite; the last good checkpoint is kept.
            Interrupted: SIGINT or SIGTERM came; the state is saved.
        """
        self.display.begin(title, step=self.step, steps=self.steps)
        gpus = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        try:
            with Interruption() as interruption, torch.random.fork_rng(gpus):
                self._start_randomness()
                while self.step < self.steps:
                    self._train_step()
                    self._look_up(interrupted=interruption.requested)
        finally:
            self.display.end()

    def _start_randomness(self) -> None:
        """Dropout's: seeded, or as the checkpoint left it. The caller's own random state comes back after training."""
        if self._random is None:
            torch.manual_seed(self.config.seed)
        else:
            _set_random_state(self._random)

    def _train_step(self) -> None:
        started = time.perf_counter()
        episode = next(self.sampler)
        with self.fabric.autocast():
            terms = self.learner.training_step(episode.target, episode.support, backward=self.updater.backward)
        self.updater.update()
        self.step += 1
        self._unread.append(terms)
        if self._due(self.monitor.log_every):
            self._log()  # reads the losses: the device is in step with us here
        self.seconds += time.perf_counter() - started
        speed = self.step * self.images_per_step / self.seconds
        self.display.stepped(self.step, losses=None if self._unread else self._last_losses, images_per_second=speed)

    def _look_up(self, *, interrupted: bool) -> None:
        """Evaluates and saves where that is due."""
        last = self.step == self.steps
        if self.monitor.evaluate_every and self.step % self.monitor.evaluate_every == 0 and not last:
            self._evaluate_on_the_way()
        if last or interrupted or (self.monitor.checkpoint_every and self.step % self.monitor.checkpoint_every == 0):
            self._save()
        if interrupted and not last:
            raise Interrupted(f"stopped at step {self.step} of {self.steps}; the state is saved in {self.run.path}.")

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def _log(self) -> None:
        rows = [[float(value) for value in terms.values()] for terms in self._unread]
        first = self.step - len(rows) + 1
        for number, row in enumerate(rows, start=first):
            if not all(math.isfinite(value) for value in row):
                terms = dict(zip(self._unread[0], row, strict=True))
                bad = next(name for name, value in terms.items() if not math.isfinite(value))
                raise self._diverged(f"the {bad} loss became {terms[bad]} in step {number}")
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        self._last_losses = dict(zip(self._unread[0], means, strict=True))
        self._unread = []
        self.run.append_metrics(
            {
                "kind": "step",
                "step": self.step,
                "losses": self._last_losses,
                "learning_rate": self.updater.learning_rate,
                "seconds": round(self.seconds, 3),
            }
        )

    def _diverged(self, what: str) -> DivergenceError:
        kept = "the last good checkpoint is kept" if (self.run.path / "last.ckpt").is_file() else "no checkpoint yet"
        return DivergenceError(f"training diverged: {what} ({kept}); try a lower --learning-rate, or --clip 1.")

    def _evaluate_on_the_way(self) -> None:
        started = time.perf_counter()
        evaluation = self.evaluator.before_and_after(self.learner, limit=self.monitor.evaluate_images)
        self.evaluation_seconds += time.perf_counter() - started
        self.record_evaluation(evaluation)

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Tells the run folder and the display."""
        self.run.append_metrics({"kind": "evaluation", "step": self.step, "accuracy": asdict(evaluation)})
        self.display.evaluated(self.step, evaluation)

    def _save(self) -> None:
        if self._unread:
            self._log()
        if not all(bool(parameter.isfinite().all()) for parameter in self.learner.parameters()):
            raise self._diverged(f"a weight became NaN or infinite by step {self.step}")
        self.run.save_checkpoint(
            {
                "step": self.step,
                "learner": self.learner.state_dict(),
                **self.updater.state_dict(),
                "sampler": self.sampler.state_dict(),
                "random": _random_state(),
                "seconds": self.seconds,
            }
        )

    def resume(self) -> None:
        """Continues from the run folder's checkpoint; without one, from the start.

        Raises:
            CheckpointError: the checkpoint is damaged, or foreign.
            ArchitectureError: it is of another architecture.
        """
        state = self.run.load_checkpoint()
        self.run.forget_metrics_after(0 if state is None else state["step"])
        if state is None:
            return
        path = self.run.path / "last.ckpt"
        try:
            self.learner.load_state_dict(state["learner"])
        except RuntimeError as error:
            difference = str(error).splitlines()[1].strip()
            raise ArchitectureError(f"{path} is of another architecture: {difference}") from error
        try:
            self.updater.load_state_dict(state)
            self.sampler.load_state_dict(state["sampler"])
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} does not fit this run ({error}).") from error
        self.step, self.seconds, self._random = state["step"], state["seconds"], state["random"]

    @property
    def images_per_second(self) -> float:
        """Training images (of both datasets) per second of training, evaluation left out."""
        return self.steps * self.images_per_step / self.seconds


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
