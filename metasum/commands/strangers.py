"""The command that adds networks which never met: sum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click

from metasum.commands import shared
from metasum.config.words import Heads
from metasum.results.strangers_tables import sum_parts
from metasum.results.terminal import show


def _settings() -> Iterator[tuple[str, type[Any]]]:
    """The settings of every merging method, each with the method that reads it."""
    from metasum.merging import METHODS

    yield from ((name, method.Config) for name, method in METHODS.items())


@click.command(cls=shared.PluginCommand, settings=_settings, name="sum")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_A RUN_B …")
@click.option(
    "--on",
    multiple=True,
    metavar="DATASET",
    help="Measure on this dataset [default: the runs' targets]. Can be repeated.",
)
@click.option(
    "--operator",
    help="What becomes of the networks: sum, average or another merging method's name; `metasum methods` lists them "
    "[default: what the runs' learner adds by; as a rule the sum].",
)
@click.option(
    "--heads",
    type=click.Choice(get_args(Heads)),
    default="summed",
    show_default=True,
    help="Last layers of the networks: summed, as all weights are; or own: only what is below is summed, and each "
    "dataset is measured with the last layer of the run that was trained on it (which dataset an image is of is known, "
    "then).",
)
@click.option("--any-init", is_flag=True, help="Add runs of different initialisations all the same.")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the summed network, as it can be deployed, to this .safetensors file: with every network's own "
    "statistics where no channel is shared, else with the union's. With --heads own, a file for each dataset, "
    "NAME-DATASET.safetensors.",
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder with datasets [default: where the runs found them]."
)
@shared.plugin_flag
@shared.out_flag
@click.option("--name", help="Name of the result's folder in OUT/sums [default: the targets and the operator].")
@shared.overwrite_flag
@shared.download_flag
@shared.device_flag
@shared.report_flag
@shared.json_flag
@shared.quiet_flag
def sum_(given: dict[str, Any], **values: Any) -> None:
    """Add the target networks of finished runs that never met.

    Measures the result on each run's dataset, with batch-norm statistics recalibrated on that dataset and on all of
    them together, and on their union, under the operators sum, average and task arithmetic. Draws accuracy along the
    line between every two networks. Leaves result.json and report.html in OUT/sums/NAME.

    \b
      metasum train --target digits --support letters
      metasum train --target printed-digits --support letters
      metasum sum runs/digits+letters/metasum-seed0 runs/printed-digits+letters/metasum-seed0
    """  # noqa: D301 (click reads the backspace)
    from metasum.strangers.request import SumRequest
    from metasum.strangers.summing import sum_runs
    from metasum.training.progress import display_for

    asked = ("operator", "on", "heads", "any_init", "data_root", "download", "device")
    request = SumRequest(settings=given, **{name: values[name] for name in asked})
    left = {name: values[name] for name in ("out", "name", "overwrite", "export", "report")}
    result = sum_runs(values["runs"], request, **left, display=display_for(quiet=values["quiet"]))
    show(result, as_json=values["as_json"], parts=sum_parts)
