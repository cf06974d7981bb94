"""Commands on single runs and networks: train, evaluate, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from metasum.commands.shared import (
    device_flag,
    download_flag,
    json_flag,
    load_plugins,
    out_flag,
    plugin_flag,
    quiet_flag,
    root_flag,
)
from metasum.config import (
    BACKENDS,
    MetaConfig,
    MonitorConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimisationConfig,
    TrackingConfig,
    TrainConfig,
    settings,
)
from metasum.flags import Choice, TolerantCommand, chosen, settings_flags
from metasum.results.evaluation import evaluation_parts
from metasum.results.meta import meta_parts
from metasum.results.run import run_parts
from metasum.results.terminal import show


def _run_flags(name_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for a command that makes a run folder: what is loaded first, and where and how the run is left."""
    flags = (
        plugin_flag,
        out_flag,
        click.option("--name", help=name_help),
        click.option("--resume", is_flag=True, help="Continue this run where it was stopped; give the same flags."),
        click.option("--overwrite", is_flag=True, help="Replace a run that is there."),
        download_flag,
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for flag in reversed(flags):
            function = flag(function)
        return function

    return decorate


def _run_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """What such a command hands on of them, with a display; memory that is freed is kept from here on."""
    from metasum.training.memory import keep_freed_memory
    from metasum.training.progress import display_for

    keep_freed_memory()
    names = ("out", "name", "resume", "overwrite", "download")
    return {name: values[name] for name in names} | {"display": display_for(quiet=values["quiet"])}


@click.command(cls=TolerantCommand)
@settings_flags(TrainConfig)
@_run_flags("Name of the run's folder [default: LEARNER-seedSEED].")
@click.option("--report/--no-report", default=True, show_default=True, help="Draw report.html at the end.")
@json_flag
@quiet_flag
def train(**values: Any) -> None:
    """Train a target and a support network, and measure their sum.

    Two networks of one architecture learn two datasets; a third, whose every weight is the sum of theirs, should
    do on the target what the target network does alone. Accuracy is measured before the sum and after it.

    With no options: handwritten digits and rendered letters, both embedded, in about a minute.
    """
    load_plugins(values["plugin"])
    config = settings(**chosen(TrainConfig, values))
    from metasum.assembly import training

    result = training.train(config, report=values["report"], **_run_arguments(values))
    show(result, as_json=values["as_json"], parts=run_parts)


@click.command(cls=TolerantCommand)
@settings_flags(MetaConfig)
@settings_flags(NetworkConfig, leave_out=("support_init_seed", "tangent", "augmented"))
@click.option("--in-channels", type=int, default=1, show_default=True, help="Channels the network sees: 1 or 3.")
@settings_flags(ObjectiveConfig, leave_out=("pool",))
@settings_flags(OptimisationConfig, leave_out=("steps", "learning_rate"))
@settings_flags(MonitorConfig)
@settings_flags(TrackingConfig, leave_out=("wandb_network",))
@click.option(
    "--backend", type=Choice(BACKENDS), default="learn2learn", show_default=True, help="Library that runs clones."
)
@root_flag
@_run_flags("Name of the run's folder in OUT/meta [default: the datasets and a checksum].")
@json_flag
@quiet_flag
def meta_train(**values: Any) -> None:
    """Learn an initialisation from which networks can be trained apart and added.

    In each step several clones of it learn a task each, apart from each other; the loss of the adapted clones, and
    of their sum, is differentiated through all adaptations. Tasks are drawn from datasets that are not to be added
    later, with new labels, turned and inverted. Leaves OUT/meta/NAME/initial.safetensors.

    \b
      metasum meta-train --meta-datasets letters,cifar10 --name here
      metasum train --learner metasum-meta --init runs/meta/here/initial.safetensors
    """  # noqa: D301 (click reads the backspace)
    load_plugins(values["plugin"])
    names = chosen(TrainConfig, values) | {"data_root": str(values["data_root"])}
    config = settings(**names, learner="metasum-meta")
    from metasum.assembly import meta_training

    result = meta_training.meta_train(config, **_run_arguments(values))
    show(result, as_json=values["as_json"], parts=meta_parts)


@click.command(cls=TolerantCommand)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.safetensors")
@click.option("--on", multiple=True, required=True, metavar="DATASET", help="Dataset to measure on. Can be repeated.")
@click.option(
    "--statistics",
    type=Choice(("stored", "recalibrate")),
    default="stored",
    show_default=True,
    help="Batch-norm statistics: those in the file, or recomputed on training images of each dataset in turn.",
)
@click.option(
    "--evaluate-on", type=Choice(("test", "validation")), default="test", show_default=True, help="Held-out images."
)
@root_flag
@plugin_flag
@download_flag
@device_flag
@json_flag
def evaluate(**values: Any) -> None:
    """Measure the network in a weights file on datasets.

    FILE is any .safetensors file of a run folder, or one that `metasum sum --export` wrote.
    """
    load_plugins(values.pop("plugin"))
    from metasum.assembly.evaluating import evaluate as measure

    as_json = values.pop("as_json")
    show(measure(**values), as_json=as_json, parts=evaluation_parts)


@click.command(cls=TolerantCommand)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@json_flag
def report(runs: tuple[Path, ...], as_json: bool) -> None:
    """Redraw report.html of finished runs, sums, comparisons and experiments, named by their folders."""
    from metasum.report.redraw import redraw

    paths = [str(redraw(run)) for run in runs]
    show({"reports": paths}, as_json=as_json, parts=lambda result: result["reports"])
