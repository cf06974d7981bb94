"""Meta-training's course: from settings to an initialisation in a run folder of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from metasum.errors import MetaSumError
from metasum.files import json_text, write_json
from metasum.learners.meta import MetaLearner
from metasum.learners.networks import MetaSum
from metasum.networks.fitting import check_fits
from metasum.plugins import load_entry_points
from metasum.report.run_page import write_meta_report
from metasum.results.meta import MetaResult
from metasum.run.description import describe, describe_dataset, reopen
from metasum.run.meta_plan import meta_datasets, meta_plan, task_distribution
from metasum.run.parts import initial_network
from metasum.run.plan import Plan
from metasum.run.request import Request
from metasum.tasks.loading import load_dataset
from metasum.training.episodes import EpisodeEvaluator
from metasum.training.harness import Harness
from metasum.training.layout import CONTIGUOUS, checked_layout
from metasum.training.layout_trial import AUTO
from metasum.training.memory import peak_bytes
from metasum.training.opening import check_name, opened
from metasum.training.optimisation import make_fabric, place
from metasum.training.progress import Display, SilentDisplay
from metasum.training.run_folder import RunFolder
from metasum.training.tracking import check_tracking, tracked
from metasum.training.wandb_runs import TrackerTroubles
from metasum.types import Dataset
from metasum.weights.parameters import checksum, parameters_of

EPISODES = 8  # that an evaluation adapts to


def meta_train(
    request: Request | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    resume: bool | None = False,
    overwrite: bool = False,
    download: bool = False,
    display: Display | None = None,
    troubles: TrackerTroubles | None = None,
) -> MetaResult:
    """Learns an initialisation from which networks can be trained apart and added.

    Args:
        request: the settings that were given; those of a pair are not looked at (but for `support`, which stands in for
            `meta_datasets`), nor are `steps` and `learning_rate`, which are a pair's, too.
        out: folder under which `meta/<name>` is made.
        name: [default: that of a run with these settings, if there is one, else the datasets and a checksum].
        resume: continue an unfinished run with the same settings; a finished one is returned as it is. None: if it is
            there.
        overwrite: replace a run that is there.
        download: let torchvision fetch a dataset that is not there.
        display: what is told about progress [default: nothing].
        troubles: with trackers, of the study that it belongs to.

    Returns:
        What result.json holds; its `initial` is the file with the initialisation (`--init`).

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; nothing is left half-written.
    """
    request, display = request or Request(), display or SilentDisplay()
    load_entry_points()
    check_name(name, resume=resume, overwrite=overwrite)
    root = Path(request["data_root"])
    datasets = {dataset: load_dataset(dataset, root=root, download=download) for dataset in meta_datasets(request)}
    plan = meta_plan(request, tuple(datasets))
    check_tracking(plan.tracking)
    course = _Course(plan, datasets, display)
    path = Path(out) / "meta" / name if name is not None else course.place(Path(out) / "meta")
    with course.opened(path, resume=resume, overwrite=overwrite) as run:
        if run.finished:
            display.note(f"{path} is finished already.")
            learnt = str(run.path / "initial.safetensors")  # the folder may have moved since
            return dataclasses.replace(run.result(MetaResult), run=str(run.path), initial=learnt)
        result = course.go(run, resume=resume is not False, troubles=troubles)
        write_meta_report(run)
    return result


class _Course:
    """Meta-training under way: its networks at their start. Nothing is written yet."""

    def __init__(self, plan: Plan, datasets: Mapping[str, Dataset], display: Display) -> None:
        self._plan, self._datasets, self._display = plan, datasets, display
        self._fabric = make_fabric(plan.optimisation.device, plan.optimisation.precision)
        self._networks = make_shared_networks(plan)
        asked = plan.optimisation.memory_format
        self._layout, _ = checked_layout(
            CONTIGUOUS if asked == AUTO else asked,  # a backward's own backward is slower in channels last
            (self._networks.target,),
            (plan.own.meta_batch_size, plan.data.in_channels, *[plan.network.image_size] * 2),
            self._fabric.device,
            precision=plan.optimisation.precision,
            second_order=True,
        )
        data = {dataset.name: describe_dataset(dataset).plain() for dataset in datasets.values()}
        start = checksum(parameters_of(self._networks.target))
        self._description = describe(plan.to_json(), data, initial_checksum=start, layout=self._layout)
        self._tasks, self._kept = (
            task_distribution(plan, datasets, self._fabric.device, held_out=held_out) for held_out in (False, True)
        )

    def place(self, folder: Path) -> Path:
        """Where a run with these settings is, or is to be, among those in `folder`."""
        label = "+".join(self._datasets)
        for path in sorted(folder.glob(f"{label}-*")):
            with contextlib.suppress(MetaSumError):
                return reopen(path, self._description).path
        told = json_text([self._plan.to_json(), self._description["data"]], sort_keys=True)
        return folder / f"{label}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def opened(
        self, path: Path, *, resume: bool | None, overwrite: bool
    ) -> contextlib.AbstractContextManager[RunFolder]:
        """The run's folder, made or found, and this process's own while the block runs."""
        found = partial(reopen, path, self._description)
        return opened(path, self._description, found, resume=resume, overwrite=overwrite, note=self._display.note)

    def go(self, run: RunFolder, *, resume: bool, troubles: TrackerTroubles | None) -> MetaResult:
        """Meta-trains; what is left to do of a run that was stopped."""
        plan, fabric, display = self._plan, self._fabric, self._display
        place(self._networks, fabric.device, self._layout)
        episodes = [next(self._kept) for _ in range(EPISODES)]
        with tracked(plan.tracking, run, display.note, job_type="meta-train", troubles=troubles) as tracker:
            harness = Harness(
                MetaLearner(self._networks, plan.own, inner_steps=plan.own.inner_steps),
                self._tasks,
                evaluator=EpisodeEvaluator(episodes, autocast=fabric.autocast),
                config=plan,
                fabric=fabric,
                run=run,
                display=display,
                record=tracker.record,
            )
            if resume:
                harness.resume()
            told = ", ".join(self._datasets)
            display.note(f"an initialisation, meta-learnt on {told}, for sums of networks trained apart")
            harness.train(title=f"meta-training {run.path.name}")
            result = _finish(harness, run, plan)
            tracker.finish(run)
        return result


def make_shared_networks(plan: Plan) -> MetaSum:
    """The initialisation that is learnt, on the CPU, with the module that clones and adds it."""
    own = plan.own
    network = initial_network(plan.network, in_channels=plan.data.in_channels)
    check_fits(network, plan.network, plan.data.in_channels)
    return MetaSum(
        network,
        operator=own.meta_operator,
        backend=own.backend,
        shared=True,
        inner_optimizer=own.inner_optimizer,
        lr=own.inner_lr,
        first_order=own.first_order,
        allow_unused=True,
        allow_nograd=True,
        scaling=own.scaling,
    )


def _finish(harness: Harness[MetaLearner, EpisodeEvaluator], run: RunFolder, plan: Plan) -> MetaResult:
    """Measures what was learnt, saves it, and writes result.json last: it marks the run finished."""
    networks, evaluation = harness.learner.networks, harness.evaluator.on_the_way(harness.learner)
    harness.record_final(evaluation)
    names = list(plan.own.meta_datasets)
    run.save_weights(
        "initial",
        networks.target.state_dict(),
        architecture=plan.architecture,
        meta_datasets=json_text(names),
    )
    result = MetaResult(
        learner=plan.learner,
        datasets=plan.own.meta_datasets,
        steps=harness.steps,
        seconds=round(harness.seconds, 2),
        images_per_second=round(harness.images_per_second, 1),
        peak_bytes=peak_bytes(harness.fabric.device),
        accuracy=evaluation,
        initial=str(run.path / "initial.safetensors"),
        run=str(run.path),
        coefficients=None if networks.coefficients is None else tuple(networks.coefficients.tolist()),
    )
    write_json(run.path / "result.json", result.to_json())
    return result
