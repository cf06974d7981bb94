"""Commands on single runs and networks: train, evaluate, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from metasum.commands import shared
from metasum.commands.own_networks import files_in, own_network, own_network_flags, refuse_without_model, say, silent
from metasum.config import flag_of
from metasum.config.flags import SettingsCommand
from metasum.config.sections import OF_A_PAIR
from metasum.errors import UsageError
from metasum.results.evaluation import evaluation_parts
from metasum.results.meta import meta_parts
from metasum.results.run import run_parts
from metasum.results.terminal import show


def _run_flags(name_help: str) -> shared.Flag:
    """The flags of a command that makes a run folder: what is loaded first, and where and how the run is left."""
    return shared.flags(
        shared.plugin_flag,
        shared.out_flag,
        click.option("--name", help=name_help),
        click.option("--resume", is_flag=True, help="Continue this run where it was stopped; give the same flags."),
        click.option("--overwrite", is_flag=True, help="Replace a run that is there."),
        shared.download_flag,
    )


def _run_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """What such a command hands on of them, with a display; memory that is freed is kept from here on."""
    from metasum.training.memory import keep_freed_memory
    from metasum.training.progress import display_for

    keep_freed_memory()
    names = ("out", "name", "resume", "overwrite", "download")
    return {name: values[name] for name in names} | {"display": display_for(quiet=values["quiet"])}


@shared.run_command()
@_run_flags("Name of the run's folder [default: LEARNER-seedSEED].")
@shared.report_flag
@shared.json_flag
@shared.quiet_flag
def train(given: dict[str, Any], **values: Any) -> None:
    """Train a target and a support network, and measure their sum.

    Two networks of one architecture learn two datasets; a third, whose every weight is the sum of theirs, should
    do on the target what the target network does alone. Accuracy is measured before the sum and after it.

    With no options: handwritten digits and rendered letters, both embedded, in about a minute.
    """
    from metasum.run.request import Request
    from metasum.run.training import train as run_training

    shared.tell_backend(given, [Request(given)["learner"]], quiet=values["quiet"])
    result = run_training(Request(given), report=values["report"], **_run_arguments(values))
    show(result, as_json=values["as_json"], parts=run_parts)


def _meta_settings() -> Iterator[tuple[str, type[Any]]]:
    from metasum.learners.meta import MetaConfig
    from metasum.run.request import SECTIONS

    yield "", MetaConfig
    yield from (("", SECTIONS[name]) for name in ("data", "network", "optimisation", "monitor", "tracking"))


@click.command(cls=shared.PluginCommand, settings=_meta_settings, leave_out=(*OF_A_PAIR, "wandb_network"))
@_run_flags("Name of the run's folder in OUT/meta [default: the datasets and a checksum].")
@shared.json_flag
@shared.quiet_flag
def meta_train(given: dict[str, Any], **values: Any) -> None:
    """Learn an initialisation from which networks can be trained apart and added.

    In each step several clones of it learn a task each, apart from each other; the loss of the adapted clones, and
    of their sum, is differentiated through all adaptations. Tasks are drawn from datasets that are not to be added
    later, with new labels, turned and inverted. Leaves OUT/meta/NAME/initial.safetensors.

    \b
      metasum meta-train --meta-datasets letters,cifar10 --name here
      metasum train --learner metasum-meta --init runs/meta/here/initial.safetensors
    """  # noqa: D301 (click reads the backspace)
    from metasum.learners.meta import MetaLearntLearner
    from metasum.run.meta_training import meta_train as run_meta_training
    from metasum.run.request import Request

    shared.tell_backend(given, [MetaLearntLearner.name], quiet=values["quiet"])
    result = run_meta_training(Request(given), **_run_arguments(values))
    show(result, as_json=values["as_json"], parts=meta_parts)


@click.command(cls=shared.PluginCommand)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--on",
    multiple=True,
    required=True,
    metavar="DATASET",
    help="Dataset to measure on; with --model a .npz file with labels. Can be repeated.",
)
@own_network_flags(several=False)
@click.option(
    "--recalibrate-on",
    multiple=True,
    metavar="FILE.npz",
    help="Recompute batch-norm statistics on these images first (with --model). Can be repeated.",
)
@click.option(
    "--statistics",
    type=click.Choice(("stored", "recalibrate")),
    default="stored",
    show_default=True,
    help="Batch-norm statistics: those in the file, or recomputed on training images of each dataset in turn.",
)
@click.option(
    "--evaluate-on",
    type=click.Choice(("test", "validation")),
    default="test",
    show_default=True,
    help="Held-out images.",
)
@shared.root_flag
@shared.plugin_flag
@shared.download_flag
@shared.device_flag
@shared.json_flag
@shared.quiet_flag
def evaluate(**values: Any) -> None:
    """Measure the network in a weights file on datasets.

    FILE is any .safetensors file of a run folder, or one that `metasum sum --export` wrote; with --model it is a
    checkpoint of a network of your own, and --on names .npz files: with arrays x (or images) and y (or labels), or in
    the Keras layout, whose test half is read. Images in uint8 become 0 to 1; other arrays are taken as they are.

    \b
      metasum evaluate runs/digits+letters/metasum-seed0/summed.safetensors --on digits --on letters
      metasum evaluate m.safetensors --model my_model.py:make --on test.npz --recalibrate-on train.npz
    """  # noqa: D301 (click reads the backspace)
    as_json, quiet = values.pop("as_json"), values.pop("quiet")
    own = {name: values.pop(name) for name in ("model", "mean", "std", "recalibrate_on")}
    if own["model"] is None:
        from metasum.run.evaluating import evaluate as measure

        refuse_without_model(own, "mean", "std", "recalibrate_on")
        result = measure(**values)
    else:
        from metasum.run.own_networks import evaluate_checkpoint

        for name, default in (("statistics", "stored"), ("evaluate_on", "test"), ("download", False)):
            if values[name] != default:
                told = " Name images with --recalibrate-on." if name == "statistics" else ""
                raise UsageError(f"{flag_of(name)} says nothing with --model.{told}")
        result = evaluate_checkpoint(
            values["file"],
            own_network({**values, **own}),
            files_in(values["on"]),
            recalibrate_on=files_in(own["recalibrate_on"]),
            note=silent if quiet else say,
        )
    show(result, as_json=as_json, parts=evaluation_parts)


@click.command(cls=SettingsCommand)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@shared.json_flag
def report(runs: tuple[Path, ...], as_json: bool) -> None:
    """Redraw report.html of finished runs, sums, comparisons and experiments, named by their folders."""
    from metasum.commands.redraw import redraw

    paths = [str(redraw(run)) for run in runs]
    show({"reports": paths}, as_json=as_json, parts=lambda result: result["reports"])
