"""Commands over many runs: compare-baselines, experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from metasum.commands.shared import (
    display_maker,
    download_flag,
    json_flag,
    learners_flag,
    load_plugins,
    out_flag,
    plugin_flag,
    quiet_flag,
    seeds_flag,
    tune_flag,
    words,
)
from metasum.config import ProcessesConfig, TrainConfig, settings
from metasum.config.flags import TolerantCommand, by_hand, chosen, settings_flags
from metasum.errors import MetaSumError
from metasum.flags import TolerantCommand, by_hand, chosen, settings_flags
from metasum.results.comparison_tables import comparison_parts
from metasum.results.experiment_tables import experiment_parts
from metasum.results.surroundings import Failed
from metasum.results.terminal import show

SHARED_WORK = tuple(field.name for field in dataclasses.fields(ProcessesConfig))
"""Settings of a run that several processes share; those of a study run in one."""


@click.command(cls=TolerantCommand)
@learners_flag
@seeds_flag
@tune_flag
@settings_flags(TrainConfig, leave_out=("learner", *SHARED_WORK))
@plugin_flag
@out_flag
@download_flag
@json_flag
@quiet_flag
def compare_baselines(**values: Any) -> None:
    """Run every learner on one pair over several seeds, and put them into one table.

    All learners get equal steps, data, order of batches and initialisation; merging methods take the networks that
    `independent` trained. What a learner leaves open is chosen on validation images, a tenth of the training images
    that those runs do not see. Finished runs are skipped, so that the same command goes on where it was stopped.

    Leaves results.json, results.csv and report.html in OUT/TARGET+SUPPORT/comparison. With --wandb, every run that is
    not finished yet is a W&B run, all in one group, and the tables come as one more when the comparison ends.

    \b
      metasum compare-baselines --learners metasum,independent,ties --seeds 2
      metasum compare-baselines --target mnist --support cifar10
    """  # noqa: D301 (click reads the backspace)
    load_plugins(values["plugin"])
    config = settings(**chosen(TrainConfig, values))
    from metasum.assembly.comparing import compare
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    result = compare(
        config,
        learners=words(values["learners"]),
        seeds=values["seeds"],
        tuned=values["tuned"],
        by_hand=by_hand(TrainConfig),
        out=values["out"],
        download=values["download"],
        displays=display_maker(quiet=values["quiet"]),
    )
    show(result, as_json=values["as_json"], parts=comparison_parts)
    _complain(result.failed)


@click.command(cls=TolerantCommand)
@click.option(
    "--targets",
    default="digits,printed-digits",
    show_default=True,
    help="Target datasets, separated by commas; their networks meet in step 3.",
)
@learners_flag
@seeds_flag
@tune_flag
@settings_flags(TrainConfig, leave_out=("learner", "target", *SHARED_WORK))
@plugin_flag
@out_flag
@download_flag
@json_flag
@quiet_flag
def experiment(**values: Any) -> None:
    """Run the whole experiment: can networks be added that never met?

    Steps 1 and 2 train every learner on each target with the support. Step 3 adds each learner's target networks,
    which never saw each other, and measures the sum on each target and on their union. One table answers: before,
    after the sum with the support, after the sum with the stranger. Finished runs are skipped, and shared with
    compare-baselines.

    Leaves results.json, results.csv and report.html in OUT/experiments/TARGETS+SUPPORT. With --wandb, every run that
    is not finished yet is a W&B run, all in one group, and the tables come as one more when the experiment ends.

    \b
      metasum experiment --learners metasum,independent,regmean --seeds 1
      metasum experiment --targets mnist,svhn --support cifar10
    """  # noqa: D301 (click reads the backspace)
    load_plugins(values["plugin"])
    config = settings(**chosen(TrainConfig, values))
    from metasum.assembly.experimenting import experiment as run_experiment
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    result = run_experiment(
        config,
        targets=words(values["targets"]) or [],
        learners=words(values["learners"]),
        seeds=values["seeds"],
        tuned=values["tuned"],
        by_hand=by_hand(TrainConfig),
        out=values["out"],
        download=values["download"],
        displays=display_maker(quiet=values["quiet"]),
    )
    show(result, as_json=values["as_json"], parts=experiment_parts)
    _complain(result.failed)


def _complain(failed: Sequence[Failed]) -> None:
    """Exit code 1 where a run failed; everything else is written by then."""
    if failed:
        first = failed[0]
        count = f"{len(failed)} runs failed, the first" if len(failed) > 1 else "a run failed"
        raise MetaSumError(f"{count}, {Path(first.run).name}: {first.error}")
