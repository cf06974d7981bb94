"""What sums of strangers are held against: one network of their architecture, trained on all their datasets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metasum.baselines.joint_training import JointTraining
from metasum.errors import CheckpointError, DivergenceError
from metasum.files import write_json
from metasum.networks.build import start_of
from metasum.networks.fitting import check_fits
from metasum.networks.heads import head_of
from metasum.results.joint_training import AccuracyByDataset, JointTrainingResult
from metasum.run.description import describe, describe_dataset, layout_before, reopen
from metasum.run.parts import initial_network
from metasum.run.plan import Plan
from metasum.strangers.measuring import measure
from metasum.tasks.sampler import JointSampler
from metasum.tasks.task import ImageTask
from metasum.training.confusion import accuracy
from metasum.training.evaluation import Autocast
from metasum.training.harness import Harness
from metasum.training.layout_trial import Surroundings, chosen_layout
from metasum.training.memory import peak_bytes
from metasum.training.opening import opened
from metasum.training.optimisation import make_fabric, place
from metasum.training.progress import Display
from metasum.training.run_folder import RunFolder
from metasum.training.tracking import tracked
from metasum.training.wandb_runs import TrackerTroubles
from metasum.types import Dataset
from metasum.weights.copies import copy_of
from metasum.weights.parameters import checksum, unfinite
from metasum.weights.statistics import recalibrate


def train_jointly(
    path: Path,
    plans: Mapping[str, Plan],
    datasets: Mapping[str, Dataset],
    *,
    kind: type[JointTraining],
    display: Display,
    troubles: TrackerTroubles | None = None,
) -> JointTrainingResult:
    """One network, or with own heads one trunk, trained on all targets, from the initialisation that theirs have.

    A step's batch is as large as in the first target's own run, and in equal parts of all targets; there are so many
    steps that it sees as many images as the targets' networks do together. A finished run is taken as it is, one begun
    goes on.

    Args:
        path: the run's folder; it is made.
        plans: of the run of each target that it stands beside, all of one architecture and seed.
        datasets: the targets, by the same names.
        kind: what is trained.
        display: is told about progress.
        troubles: with trackers, of the study that it belongs to.

    Raises:
        UsageError: the run that is there has other settings, data or initialisation.
        ArchitectureError: with own heads, it cannot be told which layer is the head.
        DivergenceError: a loss or weight became NaN or infinite.
        OccupiedError: another process works there.
    """
    course = _Course(plans, datasets, kind, display, layout_before(path))
    with course.opened(path) as run:
        if run.finished:
            display.note(f"{path} is finished already.")
            return dataclasses.replace(run.result(JointTrainingResult), run=str(path))
        return course.go(run, troubles)


def joint_batches(plans: Sequence[Plan]) -> tuple[list[int], int]:
    """Images of each target in a step, one at least, and how many steps see as many images as all these runs."""
    share, rest = divmod(plans[0].data.batch_size, len(plans))
    sizes = [max(1, share + (place < rest)) for place in range(len(plans))]
    images = sum(plan.optimisation.steps * plan.data.batch_size for plan in plans)
    return sizes, max(1, round(images / sum(sizes)))


class _Course:
    """Joint training under way: its network at its start. Nothing is written yet."""

    def __init__(
        self,
        plans: Mapping[str, Plan],
        datasets: Mapping[str, Dataset],
        kind: type[JointTraining],
        display: Display,
        before: str | None,
    ) -> None:
        self._plans, self._kind, self._display = plans, kind, display
        first = next(iter(plans.values()))
        self._sizes, steps = joint_batches(list(plans.values()))
        self._plan = plan = first.having(steps=steps)
        self._fabric = make_fabric(plan.optimisation.device, plan.optimisation.precision)
        network = initial_network(plan.network, in_channels=plan.data.in_channels)
        check_fits(network, plan.network, plan.data.in_channels)
        start = checksum(start_of(network))
        head = head_of(network, self._black(2)) if plan.evaluation.heads == "own" else frozenset[str]()
        self._joint = kind(network, tuple(plans), head=head)
        self._tasks = {
            name: ImageTask(
                datasets[name],
                in_channels=plan.data.in_channels,
                device=self._fabric.device,
                augmentation=own.data.augment_target,
                evaluate_on=plan.data.evaluate_on,
                image_size=plan.network.image_size,
            )
            for name, own in plans.items()
        }
        data = {name: describe_dataset(datasets[name]).plain() for name in plans}
        settings = {"learner": kind.name, "beside": {name: own.to_json() for name, own in plans.items()}}
        trained = Surroundings(
            tuple(self._black(sum(self._sizes)).shape), self._fabric.device, plan.optimisation.precision
        )
        asked, networks = plan.optimisation.memory_format, tuple(self._joint.networks)
        self._layout, why = chosen_layout(asked, networks, trained, before=before)
        if why is not None:
            display.note(why)
        self._description = describe(settings, data, initial_checksum=start, layout=self._layout)

    def _black(self, count: int) -> torch.Tensor:
        size = self._plan.network.image_size
        return torch.zeros(count, self._plan.data.in_channels, size, size)

    def opened(self, path: Path) -> contextlib.AbstractContextManager[RunFolder]:
        """The run's folder, made or found, and this process's own while the block runs."""
        found = partial(reopen, path, self._description, completed=_settings_of)
        return opened(path, self._description, found, resume=None, note=self._display.note)

    def go(self, run: RunFolder, troubles: TrackerTroubles | None) -> JointTrainingResult:
        """Trains and measures; what is left to do of a run that was stopped."""
        plan, fabric, display = self._plan, self._fabric, self._display
        place(self._joint, fabric.device, self._layout)
        generator = torch.Generator().manual_seed(plan.seed)
        with tracked(plan.tracking, run, display.note, job_type="joint training", troubles=troubles) as tracker:
            harness = Harness(
                self._joint,
                JointSampler(list(self._tasks.values()), batch_sizes=self._sizes, generator=generator),
                evaluator=JointEvaluator(self._tasks, plan.evaluation.calibration_batches, fabric.autocast),
                config=plan,
                fabric=fabric,
                run=run,
                display=display,
                record=tracker.record,
            )
            harness.resume()
            display.note(f"one network on {', '.join(self._plans)}, together, {self._layout}")
            harness.train(title=f"{self._kind.name} {'+'.join(self._plans)}")
            result = self._finish(harness, run)
            tracker.finish(run)
        return result

    def _finish(self, harness: Harness[JointTraining, JointEvaluator], run: RunFolder) -> JointTrainingResult:
        """Measures on all held-out images, saves the network, and writes result.json last."""
        plan, joint = self._plan, harness.learner
        for name in self._plans:
            if where := unfinite(joint.for_dataset(name)):
                raise DivergenceError(
                    f"the network has NaN or infinite numbers in {where!r}; try a lower learning rate."
                )
        networks = {name: joint.for_dataset(name) for name in self._plans}
        with harness.fabric.autocast():
            measured = measure(networks, self._tasks, plan.evaluation.calibration_batches)
        one = len(joint.networks) == 1
        for name, network in list(measured.networks.items())[: 1 if one else None]:
            file = "network" if one else f"network-{name}"
            run.save_weights(file, network.state_dict(), architecture=plan.architecture)
        result = JointTrainingResult(
            learner=self._kind.name,
            targets=tuple(self._plans),
            seed=plan.seed,
            steps=harness.steps,
            batch_sizes=tuple(self._sizes),
            seconds=round(harness.seconds, 2),
            images_per_second=round(harness.images_per_second, 1),
            peak_bytes=peak_bytes(harness.fabric.device),
            accuracy=measured.accuracy,
            evaluated_on=plan.data.evaluate_on,
            heads=plan.evaluation.heads,
            run=str(run.path),
        )
        write_json(run.path / "result.json", result.to_json())
        return result


def _settings_of(before: Mapping[str, Any]) -> dict[str, Any]:
    """Those in a config.json; raises CheckpointError where it is another run's."""
    settings = before.get("settings")
    if not isinstance(settings, dict) or "beside" not in settings:
        raise CheckpointError("these are not the settings of joint training.")
    return settings


class JointEvaluator:
    """Measures joint training on the way: on each dataset, with statistics recalibrated on it."""

    def __init__(self, tasks: Mapping[str, ImageTask], batches: int, autocast: Autocast) -> None:
        self._tasks, self._batches, self._autocast = tasks, batches, autocast

    def on_the_way(self, learner: JointTraining, *, limit: int | None = None) -> AccuracyByDataset:
        """On at most `limit` images of each."""
        found = {}
        with self._autocast():
            for name, task in self._tasks.items():
                network = recalibrate(copy_of(learner.for_dataset(name)), task.calibration(self._batches))
                found[name] = accuracy(network, task.evaluation(limit))
        return AccuracyByDataset(found)
