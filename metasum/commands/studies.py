"""Commands over many runs: compare-baselines, experiment."""

from __future__ import annotations

from typing import Any

import click

from metasum.commands import shared
from metasum.results.comparison_tables import comparison_parts
from metasum.results.experiment_tables import experiment_parts
from metasum.results.terminal import show

OF_ONE_RUN = ("learner", "devices", "num_nodes", "fsdp", "sync_batch_norm")
"""Settings that are not a study's: it has several learners, and a process for each run."""


_study_flags = shared.flags(
    *(shared.learners_flag, shared.seeds_flag, shared.tune_flag, shared.engine_flags, shared.report_flag),
    *(shared.plugin_files_flag, shared.out_flag, shared.download_flag, shared.json_flag, shared.quiet_flag),
)


def _study_arguments(given: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What such a command hands on: what is asked for, an engine and a display; freed memory is kept from here on."""
    from metasum.baselines.registry import LEARNERS
    from metasum.run.request import Request
    from metasum.study.engine.display import study_display_for
    from metasum.study.request import StudyRequest
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    learners = shared.words(values["learners"])
    shared.tell_backend(given, LEARNERS if learners is None else learners, quiet=values["quiet"])
    asked = StudyRequest(
        request=Request(given),
        learners=None if learners is None else tuple(learners),
        **{name: values[name] for name in ("seeds", "tuned", "out", "download", "report")},
    )
    return {
        "asked": asked,
        "engine": shared.engine_of(given, values),
        "display": study_display_for(quiet=values["quiet"]),
    }


@shared.run_command(leave_out=OF_ONE_RUN)
@_study_flags
def compare_baselines(given: dict[str, Any], **values: Any) -> None:
    """Run every learner on one pair over several seeds, and put them into one table.

    All learners get equal steps, data, order of batches and initialisation; merging methods take the networks that
    `independent` trained. What a learner leaves open is chosen on validation images, a tenth of the training images
    that those runs do not see. Finished runs are skipped, so that the same command goes on where it was stopped.

    Leaves results.json, results.csv and report.html in OUT/TARGET+SUPPORT/comparison. With --wandb, every run that is
    not finished yet is a W&B run, all in one group, and the tables come as one more when the comparison ends.

    \b
      metasum compare-baselines --learners metasum,independent,ties --seeds 2
      metasum compare-baselines --target mnist --support cifar10 --jobs 2
    """  # noqa: D301 (click reads the backspace)
    from metasum.study.comparing import compare

    result = compare(**_study_arguments(given, values))
    show(result, as_json=values["as_json"], parts=comparison_parts)
    shared.complain(result.failed)


@shared.run_command(leave_out=("target", *OF_ONE_RUN))
@click.option(
    "--targets",
    default="digits,printed-digits",
    show_default=True,
    help="Target datasets, separated by commas; their networks meet in step 3.",
)
@_study_flags
def experiment(given: dict[str, Any], **values: Any) -> None:
    """Run the whole experiment: can networks be added that never met?

    Steps 1 and 2 train every learner on each target with the support. Step 3 adds each learner's target networks,
    which never saw each other, and measures the sum on each target and on their union. One table answers: before,
    after the sum with the support, after the sum with the stranger. Finished runs are skipped, and shared with
    compare-baselines.

    Leaves results.json, results.csv and report.html in OUT/experiments/TARGETS+SUPPORT. With --wandb, every run that
    is not finished yet is a W&B run, all in one group, and the tables come as one more when the experiment ends.

    \b
      metasum experiment --learners metasum,independent,regmean --seeds 1
      metasum experiment --targets mnist,svhn --support cifar10 --jobs 2
    """  # noqa: D301 (click reads the backspace)
    from metasum.study.experimenting import experiment as run_experiment

    result = run_experiment(targets=shared.words(values["targets"]) or [], **_study_arguments(given, values))
    show(result, as_json=values["as_json"], parts=experiment_parts)
    shared.complain(result.failed)
