"""The only training loop. Learners own no loop; everything that repeats is here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from metasum.errors import ArchitectureError, CheckpointError, DivergenceError, Interrupted, reason
from metasum.learners.trainable import Trainable
from metasum.results.value import to_plain
from metasum.training.checkpoints import check_state
from metasum.training.interruption import Interruption
from metasum.training.losses import LossLog
from metasum.training.memory import peak_bytes, reset_peak
from metasum.training.optimisation import Updater
from metasum.training.patience import Patience
from metasum.training.processes import Processes
from metasum.training.progress import Display
from metasum.training.roles import HarnessConfig, OnTheWay, Sampler
from metasum.training.run_folder import RunFolder
from metasum.weights.parameters import running_statistics, saved_buffers
from metasum.weights.pieces import own_piece
from metasum.weights.randomness import random_state, set_random_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric


L = TypeVar("L", bound=Trainable)
E = TypeVar("E", bound=OnTheWay)


class Harness(Generic[L, E]):
    """Trains a learner into a run folder: logging, evaluating, checkpointing, resuming.

    Args:
        learner: on `fabric`'s device already.
        sampler: where episodes come from.
        evaluator: measures accuracies.
        config: the seed, how weights move, how often to log, evaluate and save.
        fabric: device and precision.
        run: the folder to write into.
        display: what is told to the user.
        record: hears every line of metrics.jsonl.
    """

    patience: Patience | None = None
    """Ends training before its last step, where somebody gives it one before `resume`. The last step is evaluated, too,
    then, and training leaves the learner with the weights of the best evaluation."""

    def __init__(
        self,
        learner: L,
        sampler: Sampler,
        *,
        evaluator: E,
        config: HarnessConfig,
        fabric: Fabric,
        run: RunFolder,
        display: Display,
        record: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.learner, self.sampler, self.evaluator = learner, sampler, evaluator
        self.config, self.fabric, self.run, self.display = config, fabric, run, display
        self.steps, self.monitor, self._also = config.optimisation.steps, config.monitor, record
        self.together = Processes(fabric)
        self.updater = Updater(learner, config.optimisation, fabric)
        self.step, self.images, self.seconds, self.evaluation_seconds = 0, 0, 0.0, 0.0
        reset_peak(fabric.device)
        self._random: dict[str, Any] | None = None
        self._losses = LossLog(self.together)

    @property
    def over(self) -> bool:
        """Whether there is no step left to run."""
        return self.step >= self.steps or (self.patience is not None and self.patience.over)

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
                while not self.over:
                    self._train_step()
                    self._evaluate_and_save(interrupted=self.together.any(interruption.requested))
                if self.patience is not None and self.patience.best is not None:
                    self.display.note(
                        f"step {self.step}: the end; taken is the network of step {self.patience.best.step}"
                    )
        finally:
            self.display.end()
        if self.patience is not None:
            self.patience.return_to_best(self.learner)

    def _start_randomness(self) -> None:
        """Dropout's: seeded, or as the checkpoint left it. The caller's own random state comes back after training.

        Further processes drop other units, seeded anew where a run is continued.
        """
        if not self.together.first:
            torch.manual_seed(self.config.seed + self.together.rank * 1_000_003 + self.step)
            return
        torch.manual_seed(self.config.seed)
        if self._random is not None:
            set_random_state(self._random, self.fabric.device)

    def _train_step(self) -> None:
        started = time.perf_counter()
        episode = next(self.sampler)
        with self.fabric.autocast():
            terms = self.learner.training_step(*self.together.share(episode), backward=self.updater.backward)
        self.updater.update()
        self.step += 1
        self.images += sum(part.size for part in episode)
        self._losses.add(terms)
        if self.step % self.monitor.log_every == 0 or self.step == self.steps:
            self._read_losses()  # waits for the device
        self.seconds += time.perf_counter() - started
        if not self._losses.unread:
            self._log()
        losses = None if self._losses.unread else self._losses.means
        self.display.stepped(self.step, losses=losses, images_per_second=self.images_per_second)

    def _evaluate_and_save(self, *, interrupted: bool) -> None:
        """Where that is due."""
        at_the_end = self.step == self.steps
        due = self.monitor.evaluate_every and self.step % self.monitor.evaluate_every == 0
        if (due and not at_the_end) or (at_the_end and self.patience is not None):
            self._evaluate_on_the_way()
        last = self.over
        if last or interrupted or (self.monitor.checkpoint_every and self.step % self.monitor.checkpoint_every == 0):
            self._save()
        if interrupted and not last:
            raise Interrupted(f"stopped at step {self.step} of {self.steps}; the state is saved in {self.run.path}.")

    def _read_losses(self) -> None:
        try:
            self._losses.read(self.step)
        except DivergenceError as error:
            raise self._diverged(str(error)) from error

    def _log(self) -> None:
        self._write(
            {
                "kind": "step",
                "step": self.step,
                "losses": self._losses.means,
                "learning_rate": self.updater.learning_rate,
                "seconds": round(self.seconds, 3),
                "images_per_second": round(self.images_per_second, 1),
                "peak_bytes": peak_bytes(self.fabric.device),
            }
        )

    def _write(self, record: dict[str, Any]) -> None:
        if self.together.first:
            self.run.append_metrics(record)
            self._also(record)

    def _diverged(self, what: str) -> DivergenceError:
        kept = "the last good checkpoint is kept" if (self.run.path / "last.ckpt").is_file() else "no checkpoint yet"
        return DivergenceError(f"training diverged: {what} ({kept}); try a lower learning rate, or --clip 1.")

    def _evaluate_on_the_way(self) -> None:
        started = time.perf_counter()
        self._meet()
        evaluation = self.together.agreed(
            lambda: self.evaluator.on_the_way(self.learner, limit=self.monitor.evaluate_images)
        )
        self.evaluation_seconds += time.perf_counter() - started
        if self.patience is not None:
            self.patience.heard(self.step, evaluation, self.learner)
        self._record_evaluation(evaluation)

    def _record_evaluation(self, evaluation: Any) -> None:
        self._write({"kind": "evaluation", "step": self.step, "accuracy": to_plain(evaluation)})
        self.display.evaluated(self.step, evaluation)

    def record_final(self, evaluation: Any) -> None:
        """Logs the evaluation after the last step, unless a run that was killed right after it has done so."""
        if {"kind": "evaluation", "step": self.step, "accuracy": to_plain(evaluation)} not in self.run.metrics():
            self._record_evaluation(evaluation)

    def _save(self) -> None:
        if self._losses.unread:
            self._read_losses()
            self._log()
        if what := self._unfinite():
            raise self._diverged(f"{what} became NaN or infinite by step {self.step}")
        self._meet()
        update = self.updater.state_dict(keep=self.together.first)
        self.together.agreed(lambda: self._write_checkpoint(update))

    def _unfinite(self) -> str | None:
        """What, of all that training moves and a checkpoint holds, has a NaN or infinite number; None: nothing."""
        held = {
            "a weight": self.learner.parameters(),
            "a running statistic": running_statistics(self.learner.modules()),
            "the optimiser's memory": self.updater.moments(),
        }
        for what, tensors in held.items():
            if self.together.any(not all(bool(own_piece(tensor).isfinite().all()) for tensor in tensors)):
                return what
        return None

    def _meet(self) -> None:
        """Before networks are measured or saved: running statistics are averaged, and pieces put together."""
        self.together.average_buffers(saved_buffers(self.learner.modules()))
        self.learner.before_measuring()

    def _write_checkpoint(self, update: dict[str, Any]) -> None:
        self.run.save_checkpoint(
            {
                "step": self.step,
                "learner": self.learner.state_dict(),
                **update,
                "sampler": self.sampler.state_dict(),
                "random": random_state(self.fabric.device),
                "images": self.images,
                "seconds": self.seconds,
                "evaluation_seconds": self.evaluation_seconds,
                "logged": self.run.logged,
                **({} if self.patience is None else {"patience": self.patience.state_dict()}),
            }
        )

    def resume(self) -> None:
        """Continues from the run folder's checkpoint; without one, from the start.

        Raises:
            CheckpointError: the checkpoint is damaged, or foreign; or a line of metrics.jsonl is damaged.
            ArchitectureError: it is of another architecture.
        """
        state = self.run.load_checkpoint()
        if state is not None:
            self._restore(state)
        logged = None if state is None else state.get("logged")
        self.together.agreed(lambda: self.run.forget_metrics_after(self.step, logged=logged))

    def _restore(self, state: dict[str, Any]) -> None:
        path = self.run.path / "last.ckpt"
        check_state(state, self.steps, path)
        try:
            self.learner.load_state_dict(state["learner"])
        except (RuntimeError, TypeError, AttributeError) as error:
            difference = (str(error).splitlines()[1:] or [reason(error)])[0].strip()
            raise ArchitectureError(f"{path} is of another architecture: {difference}") from error
        try:
            self.updater.load_state_dict(state)
            self.sampler.load_state_dict(state["sampler"])
            if self.patience is not None:
                self.patience.load_state_dict(state["patience"])
        except Exception as error:  # whatever PyTorch makes of fields of another kind
            raise CheckpointError(f"{path} does not fit this run ({reason(error)}).") from error
        if what := self._unfinite():
            raise CheckpointError(
                f"{path} holds a state that is none: {what} is NaN or infinite; train anew with --overwrite."
            )
        self.step, self.images, self._random = state["step"], state["images"], state["random"]
        self.seconds, self.evaluation_seconds = state["seconds"], state["evaluation_seconds"]

    @property
    def images_per_second(self) -> float:
        """Training images (of all networks) per second of training, evaluation left out."""
        return self.images / self.seconds
