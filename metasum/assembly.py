"""Where names become objects: from settings to datasets, networks, learner and harness, and one run's course."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metasum.baselines.registry import LEARNERS, learner_named
from metasum.config import SECTIONS, NetworkConfig, TrainConfig
from metasum.errors import UsageError
from metasum.files import check_folder_name, write_json
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Learner
from metasum.networks.build import build_network
from metasum.plugins import load_entry_points
from metasum.tasks.registry import load_dataset, pair_of
from metasum.tasks.sampler import PairSampler
from metasum.tasks.task import ImageTask
from metasum.training.description import describe, reopen
from metasum.training.evaluation import Evaluator
from metasum.training.harness import Harness
from metasum.training.memory import peak_bytes
from metasum.training.optimisation import make_fabric
from metasum.training.progress import Display, SilentDisplay
from metasum.training.run_folder import RunFolder
from metasum.types import Dataset
from metasum.weights.parameters import checksum, parameters_of
from metasum.weights.storage import load_into

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    config: TrainConfig | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    download: bool = False,
    report: bool = True,
    display: Display | None = None,
) -> dict[str, Any]:
    """One run, from settings to result.

    Args:
        config: the settings [default: the embedded pair]; what is None in them is taken from the pair's recipe.
        out: folder under which `<target>+<support>/<name>` is made.
        name: of the run's folder [default: `<learner>-seed<seed>`].
        resume: continue an unfinished run with the same settings; a finished one is returned as it is.
        overwrite: replace a run that is there.
        download: let torchvision fetch a dataset that is not there.
        report: draw report.html at the end.
        display: what is told about progress [default: nothing].

    Returns:
        What result.json holds: "learner", "target", "support", "seed", "steps", "seconds", "peak_bytes",
        "images_per_second", "accuracy", "after_by_operator", "run".

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; nothing is left half-written.
    """
    config, display = config or TrainConfig(), display or SilentDisplay()
    if name is not None:
        check_folder_name("--name", name)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite ask for opposite things.")
    load_entry_points()
    entry = learner_named(config.learner)
    fabric = make_fabric(config.optimisation)
    root = Path(config.data.data_root)
    datasets = [load_dataset(n, root=root, download=download) for n in (config.data.target, config.data.support)]
    config = resolve(config, datasets)
    _refuse_settings_of_other_learners(config)
    networks = _networks(config)
    initial = {n: tensor.detach().clone() for n, tensor in networks.target.state_dict().items()}
    learner = entry.factory(networks.to(fabric.device), config)
    if config.sum.statistics == "learned" and not learner.trains_sum:
        raise UsageError(f"--statistics learned: learner {config.learner!r} does not run the sum in training.")
    tasks = _tasks(config, datasets, fabric)
    description = describe(config, datasets, checksum(parameters_of(networks.target)))
    path = Path(out) / f"{config.data.target}+{config.data.support}" / (name or f"{config.learner}-seed{config.seed}")
    run = reopen(path, description) if resume else RunFolder.create(path, description, overwrite=overwrite)
    if run.finished:
        display.note(f"{path} is finished already.")
        return _reported(run, run.read_json("result.json"), report)
    run.save_weights("initial", initial)
    harness = _harness(learner, tasks, config, fabric, run, display)
    if resume:
        harness.resume()
    sizes = " and ".join(f"{data.name} ({len(data.train):,} images, {data.source})" for data in datasets)
    display.note(f"{sizes}; {sum(p.numel() for p in networks.target.parameters()):,} parameters a network")
    harness.train(title=f"{config.learner} {config.data.target}+{config.data.support}")
    return _reported(run, _finish(harness, config, display), report)


def _reported(run: RunFolder, result: dict[str, Any], report: bool) -> dict[str, Any]:
    """The result, once report.html is there (where it is wanted)."""
    if report and not (run.path / "report.html").is_file():
        from metasum.report.page import write_report

        write_report(run)
    return result


def resolve(config: TrainConfig, datasets: list[Dataset]) -> TrainConfig:
    """The settings with every None that stands for a default filled in, from the pair's recipe and its datasets."""
    recipe = pair_of(config.data.target, config.data.support).recipe
    classes = max(data.num_classes for data in datasets)
    asked = config.network.num_classes
    if asked is not None and asked < classes:
        raise UsageError(f"--num-classes {asked} is too few: the datasets have {classes} classes.")

    def filled(section: Any, **defaults: Any) -> Any:
        return dataclasses.replace(section, **{k: v for k, v in defaults.items() if getattr(section, k) is None})

    return dataclasses.replace(
        config,
        data=filled(config.data, batch_size=recipe.batch_size),
        network=filled(config.network, width=recipe.width, num_classes=classes),
        optimisation=filled(config.optimisation, steps=recipe.steps, learning_rate=recipe.learning_rate),
    )


def _refuse_settings_of_other_learners(config: TrainConfig) -> None:
    """A setting that the chosen learner does not read is an error, not a silence."""
    own = learner_named(config.learner).sections
    for section in {name for entry in LEARNERS.values() for name in entry.sections} - set(own):
        for name, default in asdict(SECTIONS[section]()).items():
            if getattr(getattr(config, section), name) != default:
                raise UsageError(f"--{name.replace('_', '-')} says nothing to learner {config.learner!r}.")


def initial_network(config: NetworkConfig, *, in_channels: int) -> nn.Module:
    """The shared initialisation: from `config.init` where given, else drawn from `config.init_seed`."""
    network = build_network(config, in_channels=in_channels, seed=config.init_seed)
    if config.init is not None:
        load_into(network, Path(config.init))
    return network


def _networks(config: TrainConfig) -> MetaSum:
    channels, own_seed = config.data.in_channels, config.network.support_init_seed
    model = initial_network(config.network, in_channels=channels)
    support = None if own_seed is None else build_network(config.network, in_channels=channels, seed=own_seed)
    return MetaSum(model, support=support, operator=config.sum.operator, backend=config.sum.backend)


def _tasks(config: TrainConfig, datasets: list[Dataset], fabric: Fabric) -> list[ImageTask]:
    return [
        ImageTask(
            dataset,
            in_channels=config.data.in_channels,
            device=fabric.device,
            augmentation=augmentation,
            evaluate_on=config.data.evaluate_on,
        )
        for dataset, augmentation in zip(
            datasets, (config.data.augment_target, config.data.augment_support), strict=True
        )
    ]


def _harness(
    learner: Learner, tasks: list[ImageTask], config: TrainConfig, fabric: Fabric, run: RunFolder, display: Display
) -> Harness:
    target, support = tasks
    generator = torch.Generator().manual_seed(config.seed)
    assert config.data.batch_size is not None  # resolved
    return Harness(
        learner,
        PairSampler([(target, support)], batch_size=config.data.batch_size, generator=generator),
        evaluator=Evaluator(target, support, settings=config.sum, autocast=fabric.autocast),
        config=config,
        fabric=fabric,
        run=run,
        display=display,
    )


def _finish(harness: Harness, config: TrainConfig, display: Display) -> dict[str, Any]:
    """Measures on all held-out images, saves the networks, and writes result.json last: it marks the run finished."""
    learner, run = harness.learner, harness.run
    display.note("measuring on all held-out images …")
    started = time.perf_counter()
    final = harness.evaluator.everything(learner)
    harness.record_final(final.accuracy)
    run.save_weights("target", learner.target_network().state_dict())
    run.save_weights("support", learner.support_network().state_dict())
    run.save_weights(
        "summed", final.summed.state_dict(), operator=config.sum.operator, statistics=config.sum.statistics
    )
    result = {
        "learner": config.learner,
        "target": config.data.target,
        "support": config.data.support,
        "seed": config.seed,
        "steps": harness.steps,
        "seconds": round(harness.seconds, 2),
        "evaluation_seconds": round(harness.evaluation_seconds + time.perf_counter() - started, 2),
        "peak_bytes": peak_bytes(harness.fabric.device),
        "images_per_second": round(harness.images_per_second, 1),
        "operator": config.sum.operator,
        "accuracy": asdict(final.accuracy),
        "after_by_operator": final.after_by_operator,
        "evaluated_on": config.data.evaluate_on,
        "run": str(run.path),
    }
    write_json(run.path / "result.json", result)
    return result
