"""One run under way: from its plan to what its folder holds in the end."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import torch
from torch import nn

from metasum.errors import ArchitectureError
from metasum.networks.build import start_of
from metasum.results.run import RunResult
from metasum.run.description import describe, describe_dataset, layout_before, reopen
from metasum.run.finishing import finish, reported
from metasum.run.parts import further_data, make_learner, make_networks
from metasum.run.plan import Plan
from metasum.tasks.sampler import PairSampler
from metasum.tasks.task import ImageTask
from metasum.training.evaluation import Evaluator
from metasum.training.harness import Harness
from metasum.training.opening import opened
from metasum.training.processes import Processes
from metasum.training.progress import Display
from metasum.training.run_folder import RunFolder
from metasum.training.settling import statistics_of
from metasum.training.tracking import Tracker, tracked
from metasum.training.wandb_runs import TrackerTroubles
from metasum.types import Dataset, Parameters, Sides
from metasum.weights.parameters import check_same_architecture, checksum
from metasum.weights.storage import load_into, load_weights


@dataclasses.dataclass(frozen=True)
class Where:
    """The folder of a run, what becomes of one that is there, and what is left in it."""

    path: Path
    out: Path
    """Folder of all runs, where a meta-learnt initialisation is looked for, or made."""
    resume: bool | None = False
    """Continue an unfinished run of the same settings; a finished one is returned as it is. None: if it is there."""
    overwrite: bool = False
    """Replace a run that is there."""
    report: bool = True
    """Draw report.html at the end."""
    keep_weights: bool = True
    """Save the networks."""
    endpoints: Path | None = None
    """A finished run beside `path`, of the same settings, whose networks are taken as trained, for a learner that only
    merges them; the run's own folder then holds the merged network only."""


class Course:
    """One run under way: its networks at their start, its learner and its tasks. Nothing is written yet.

    Raises:
        MetaSumError: what can be known before the first step.
    """

    def __init__(
        self, where: Where, plan: Plan, datasets: Sides[Dataset], together: Processes, display: Display
    ) -> None:
        self._where, self._plan, self._datasets = where, plan, datasets
        self._together, self._display = together, display
        networks = make_networks(plan)
        self._start = checksum(start_of(networks.target))
        self._parameters = sum(parameter.numel() for parameter in networks.target.parameters())
        self._initial = {name: tensor.detach().clone() for name, tensor in networks.target.state_dict().items()}
        self._networks = networks
        self._further = further_data(plan)
        before = None if where.resume is False else layout_before(where.path)
        self._learner, self._layout = make_learner(
            networks, plan, together.fabric, further=self._further, before=before, note=display.note
        )
        alone = Sides(self._learner.target_network(), self._learner.support_network())
        _check_network(alone.target, self._initial, plan)
        policy = together.agreed(lambda: statistics_of(self._learner, alone, plan.evaluation.statistics))
        self._plan = plan.having(statistics=policy)
        self._tasks = Sides(
            *(
                ImageTask(
                    dataset,
                    in_channels=plan.data.in_channels,
                    device=together.fabric.device,
                    augmentation=augmentation,
                    image_size=plan.network.image_size,
                    evaluate_on=plan.data.evaluate_on,
                )
                for dataset, augmentation in zip(
                    datasets, (plan.data.augment_target, plan.data.augment_support), strict=True
                )
            )
        )

    def opened(self) -> contextlib.AbstractContextManager[RunFolder]:
        """The run's folder, made or found, and this process's own while the block runs."""
        plan, where = self._plan, self._where
        data = {side: describe_dataset(dataset).plain() for side, dataset in self._datasets._asdict().items()}
        description = describe(plan.to_json(), data, initial_checksum=self._start, layout=self._layout)
        if self._further:
            further = {name: describe_dataset(each).plain() for name, each in self._further.items()}
            description["further_data"] = further
        if pool := getattr(plan.own, "pool", ()):
            description["pool_checksums"] = [checksum(load_weights(Path(file))) for file in pool]
        return opened(
            where.path,
            description,
            lambda: reopen(where.path, description),
            resume=where.resume,
            overwrite=where.overwrite,
            note=self._display.note,
        )

    def go(self, run: RunFolder, troubles: TrackerTroubles | None) -> RunResult:
        """Trains, or takes finished networks, and measures; what is left to do of a run that was stopped."""
        plan, where, together = self._plan, self._where, self._together
        if where.keep_weights and where.endpoints is None and together.first:
            run.save_weights("initial", self._initial, architecture=plan.architecture)
        job_type = "train" if plan.data.evaluate_on == "test" else plan.data.evaluate_on
        tracking = plan.tracking if together.first else dataclasses.replace(plan.tracking, wandb="disabled")
        with tracked(tracking, run, self._display.note, job_type=job_type, troubles=troubles) as tracker:
            result = self._trained_and_measured(run, tracker)
            if together.first:
                tracker.finish(run)
        return together.agreed(lambda: reported(run, result, where.report))

    def _trained_and_measured(self, run: RunFolder, tracker: Tracker) -> RunResult:
        plan, where, together = self._plan, self._where, self._together
        fabric, display = together.fabric, self._display
        generator = torch.Generator().manual_seed(plan.seed)
        harness = Harness(
            self._learner,
            PairSampler([self._tasks], batch_size=plan.data.batch_size, generator=generator),
            evaluator=Evaluator(
                self._tasks.target, self._tasks.support, settings=plan.evaluation, autocast=fabric.autocast
            ),
            config=plan,
            fabric=fabric,
            run=run,
            display=display,
            record=tracker.record,
        )
        endpoints = None if where.endpoints is None else RunFolder.open(where.endpoints)
        if endpoints is not None:
            load_into(self._networks.target, endpoints.path / "target.safetensors")
            load_into(self._networks.support, endpoints.path / "support.safetensors")
        else:
            if where.resume is not False:
                harness.resume()
            told = " and ".join(f"{data.name} ({len(data.train):,} images, {data.source})" for data in self._datasets)
            display.note(f"{told}; {self._parameters:,} parameters a network, {self._layout}")
            harness.train(title=f"{plan.learner} {plan.data.target}+{plan.data.support}")
        wanted = {"keep_weights": where.keep_weights, "report": where.report}
        return together.agreed(lambda: finish(harness, plan, self._networks, endpoints, **wanted))


def _check_network(network: nn.Module, initial: Parameters, plan: Plan) -> None:
    """Raises ArchitectureError where a learner trains another network than the one that files would be said to hold."""
    try:
        check_same_architecture([initial, dict(network.state_dict())], names=[plan.network.network, "the learner's"])
    except ArchitectureError as error:
        raise ArchitectureError(
            f"learner {plan.learner!r} trains another network than --network {plan.network.network}; register that one "
            f"(metasum.networks.build.register_network) and name it with --network. {error}"
        ) from error
