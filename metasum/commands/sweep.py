"""The command that runs sweep files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from metasum.commands.shared import json_flag, out_flag, quiet_flag
from metasum.config.flags import SettingsCommand
from metasum.errors import MetaSumError
from metasum.results.sweep_tables import sweep_parts
from metasum.results.terminal import show
from metasum.sweeps.config import SweepConfig


@click.command(cls=SettingsCommand, settings=lambda: [("", SweepConfig)])
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.yaml")
@click.argument("arguments", nargs=-1, metavar="[-- OPTIONS]")
@out_flag
@json_flag
@quiet_flag
def sweep(given: dict[str, Any], **values: Any) -> None:
    """Run a W&B sweep file here, with no account and no network.

    Grid, random and bayes (a Gaussian process) on Optuna, with hyperband's early end. Each trial is a process with a
    run folder of its own. The same command goes on where it was stopped; several of them, on one machine or many that
    share a --storage, run one sweep together. Options behind -- are given to every trial.

    Leaves results.json, results.csv and report.html in OUT/sweeps/NAME.

    \b
      metasum sweep wandb_sweeps/proximity.yaml
      metasum sweep wandb_sweeps/sum_weight.yaml --count 20 --jobs 2 -- --steps 200
      metasum sweep wandb_sweeps/meta.yaml --count 50 --storage postgresql://me@server/sweeps
    """  # noqa: D301 (click reads the backspace)
    from metasum.sweeps.run import sweep as run_sweep
    from metasum.training.progress import display_for

    result = run_sweep(
        values["file"],
        SweepConfig(**given),
        arguments=values["arguments"],
        out=values["out"],
        display=display_for(quiet=values["quiet"]),
    )
    show(result, as_json=values["as_json"], parts=sweep_parts)
    if failed := result.ended("fail"):
        raise MetaSumError(f"{len(failed)} of {result.count} trials failed, the first: {failed[0].error}")
