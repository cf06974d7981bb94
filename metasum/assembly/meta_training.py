"""Meta-training's course: from settings to an initialisation in a run folder of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from metasum.assembly.parts import check_request, initial_network
from metasum.config import TrainConfig, changed, to_dict
from metasum.errors import UsageError
from metasum.files import write_json
from metasum.learners.meta import MetaLearner
from metasum.learners.networks import MetaSum
from metasum.networks.build import architecture
from metasum.plugins import load_entry_points
from metasum.results.meta import MetaResult
from metasum.tasks.distribution import TaskDistribution, Variations
from metasum.tasks.registry import load_dataset
from metasum.tasks.task import ImageTask, validation_split
from metasum.training.description import describe_dataset, describe_surroundings, reopen
from metasum.training.episodes import EpisodeEvaluator
from metasum.training.harness import Harness
from metasum.training.memory import peak_bytes
from metasum.training.opening import finished, opened
from metasum.training.optimisation import make_fabric, place
from metasum.training.progress import Display, SilentDisplay
from metasum.training.run_folder import RunFolder
from metasum.training.tracking import check_tracking, tracked
from metasum.training.wandb_runs import Troubles
from metasum.types import Dataset
from metasum.weights.parameters import checksum, parameters_of

EPISODES = 8  # that an evaluation adapts to
EVALUATION_SEED = 2**62  # of their tasks: none that a --meta-seed is likely to have


def meta_train(
    config: TrainConfig | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    resume: bool | None = False,
    overwrite: bool = False,
    download: bool = False,
    display: Display | None = None,
    troubles: Troubles | None = None,
) -> MetaResult:
    """Learns an initialisation from which networks can be trained apart and added.

    Args:
        config: what it reads are the sections meta, network, objective, optimisation (but for steps and learning rate)
            and monitor; `data.support` stands in for `meta_datasets`.
        out: folder under which `meta/<name>` is made.
        name: [default: the datasets and a checksum of the settings].
        resume: continue an unfinished run with the same settings; a finished one is returned as it is. None: if it is
            there.
        overwrite: replace a run that is there.
        download: let torchvision fetch a dataset that is not there.
        display: what is told about progress [default: nothing].
        troubles: with trackers, of the study that it belongs to.

    Returns:
        What result.json holds; `initial` is the file with the initialisation (`--init`).

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; nothing is left half-written.
    """
    config, display = config or TrainConfig(learner="metasum-meta"), display or SilentDisplay()
    check_request(name, resume=resume, overwrite=overwrite)
    check_tracking(config.tracking)
    load_entry_points()
    root = Path(config.data.data_root)
    datasets = {dataset: load_dataset(dataset, root=root, download=download) for dataset in meta_datasets(config)}
    config = _outer(config, datasets)
    fabric = make_fabric(config.optimisation)
    networks = MetaSum(
        initial_network(config.network, in_channels=config.data.in_channels),
        operator=config.meta.meta_operator,
        backend=config.sum.backend,
        shared=True,
        inner_optimizer=config.meta.inner_optimizer,
        inner_lr=config.meta.inner_lr,
        first_order=config.meta.first_order,
        scaling=config.merging.scaling,
    )
    description = {
        "settings": to_dict(config),
        "data": {dataset.name: describe_dataset(dataset).plain() for dataset in datasets.values()},
        "initial_checksum": checksum(parameters_of(networks.target)),
        **describe_surroundings(),
    }
    path = Path(out) / "meta" / (name or _default_name(description))

    def found() -> RunFolder:
        return reopen(path, description)

    before = finished(path, found, resume=resume)
    if before is not None:
        display.note(f"{path} is finished already.")
        return before.result(MetaResult)
    tasks, episodes = (_distribution(config, datasets, fabric.device, held_out=held_out) for held_out in (False, True))
    with opened(path, description, found, resume=resume, overwrite=overwrite, note=display.note) as run:
        if run.finished:  # by another process, meanwhile
            return run.result(MetaResult)
        # a backward's own backward is slower in channels last
        place(networks, fabric.device, config.optimisation.memory_format or "contiguous")
        learner = MetaLearner(networks, config.objective, inner_steps=config.meta.inner_steps)
        with tracked(config.tracking, run, display.note, job_type="meta-train", troubles=troubles) as tracker:
            harness = Harness(
                learner,
                tasks,
                evaluator=EpisodeEvaluator([next(episodes) for _ in range(EPISODES)], autocast=fabric.autocast),
                config=config,
                fabric=fabric,
                run=run,
                display=display,
                record=tracker.record,
            )
            if resume is not False:
                harness.resume()
            display.note(f"an initialisation, meta-learnt on {', '.join(datasets)}, for sums of networks trained apart")
            harness.train(title=f"meta-training {path.name}")
            result = _finish(harness, run, config)
            tracker.finish(run)
        from metasum.report.run_page import write_meta_report

        write_meta_report(run)
    return result


def _finish(harness: Harness[MetaLearner, EpisodeEvaluator], run: RunFolder, config: TrainConfig) -> MetaResult:
    """Measures what was learnt, saves it, and writes result.json last: it marks the run finished."""
    networks, evaluation = harness.learner.networks, harness.evaluator.on_the_way(harness.learner)
    harness.record_final(evaluation)
    names = meta_datasets(config)
    run.save_weights(
        "initial",
        networks.target.state_dict(),
        architecture=architecture(config),
        meta_datasets=json.dumps(names),
    )
    result = MetaResult(
        learner=config.learner,
        datasets=tuple(names),
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


def meta_datasets(config: TrainConfig, held_out: Collection[str] = ()) -> list[str]:
    """Names of the datasets that meta-training reads, those of `config.meta` or else the support.

    Raises:
        UsageError: one of them is to be held out, or is named twice.
    """
    asked = config.meta.meta_datasets
    names = [word.strip() for word in (asked or config.data.support).split(",") if word.strip()]
    flag = "--meta-datasets" if asked else "--support"
    if not names or len(set(names)) < len(names):
        raise UsageError(f"{flag} takes different datasets, not {asked!r}.")
    seen = next((name for name in names if name in held_out), None)
    if seen is not None:
        raise UsageError(f"{flag}: meta-training on {seen!r}, a target, would leave nothing that it has never seen.")
    return names


def _outer(config: TrainConfig, datasets: Mapping[str, Dataset]) -> TrainConfig:
    """The settings of meta-training's own loop; what a pair decides is at its default, so that all pairs share it."""
    meta = config.meta
    return changed(
        TrainConfig(
            network=dataclasses.replace(config.network, tangent=False, augmented=False),
            objective=config.objective,
            optimisation=config.optimisation,
            tracking=config.tracking,
        ),
        learner="metasum-meta",
        **{**dataclasses.asdict(meta), "meta_datasets": ",".join(datasets)},
        **dataclasses.asdict(config.monitor),
        backend=config.sum.backend,
        scaling=config.merging.scaling,
        data_root=config.data.data_root,
        in_channels=config.data.in_channels,
        seed=meta.meta_seed,
        steps=meta.meta_steps,
        learning_rate=meta.meta_learning_rate,
        width=config.network.width or 0.25,
        num_classes=config.network.num_classes or 10,
    )


def _default_name(description: Mapping[str, Any]) -> str:
    settings = {**description["settings"], "monitor": None, "tracking": None}
    settings["data"] = {**settings["data"], "data_root": None}
    settings["optimisation"] = {**settings["optimisation"], "device": None, "memory_format": None}
    told = json.dumps(
        [settings, {name: data["checksum"] for name, data in description["data"].items()}], sort_keys=True
    )
    return "+".join(description["data"]) + "-" + hashlib.sha256(told.encode()).hexdigest()[:8]


def _distribution(
    config: TrainConfig, datasets: Mapping[str, Dataset], device: torch.device, *, held_out: bool
) -> TaskDistribution:
    """Tasks of nine tenths of the datasets' training images, or of the tenth that is kept for evaluation."""
    meta = config.meta
    tasks = {}
    for name, dataset in datasets.items():
        rest, kept = validation_split(dataset.train)
        drawn = dataclasses.replace(dataset, train=kept if held_out else rest)
        tasks[name] = ImageTask(drawn, in_channels=config.data.in_channels, device=device)
    return TaskDistribution(
        tasks,
        images=(meta.inner_steps + 1) * meta.meta_batch_size,
        outputs=config.network.num_classes or 10,
        variations=Variations(meta.permute_labels, meta.rotate, meta.invert, meta.task_classes),
        partners=(2, meta.partners),
        generator=torch.Generator().manual_seed(EVALUATION_SEED if held_out else meta.meta_seed),
    )
