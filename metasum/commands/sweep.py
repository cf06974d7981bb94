"""The command that runs sweep files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from metasum.commands.shared import json_flag, out_flag, quiet_flag
from metasum.errors import MetaSumError
from metasum.flags import TolerantCommand
from metasum.results.sweep_tables import sweep_parts
from metasum.results.terminal import show


@click.command(cls=TolerantCommand)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.yaml")
@click.argument("arguments", nargs=-1, metavar="[-- OPTIONS]")
@click.option(
    "--count", type=click.IntRange(min=1), help="Trials in all, whoever runs them [default: all of a grid, or run_cap]."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Trials at a time; fewer where cores or memory do not suffice.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Where trials are written down, for any number of machines to share: a journal file's path, sqlite:///FILE "
    "or postgresql://USER@HOST/NAME [default: journal.log in the sweep's folder].",
)
@click.option("--name", help="Of the sweep and its folder [default: the file's name].")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random search and bayes.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Silence after which another machine's process is taken for dead, and its trial is run again. Unit: seconds.",
)
@out_flag
@json_flag
@quiet_flag
def sweep(**values: Any) -> None:
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
    from metasum.assembly.sweeping import sweep as run_sweep
    from metasum.training.progress import display_for

    display = display_for(quiet=values.pop("quiet"))
    as_json = values.pop("as_json")
    result = run_sweep(**values, display=display)
    show(result, as_json=as_json, parts=sweep_parts)
    if failed := result.ended("fail"):
        raise MetaSumError(f"{len(failed)} of {result.count} trials failed, the first: {failed[0].error}")
