"""The command on learning from few examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from metasum.commands import shared
from metasum.results.few_shot_tables import few_shot_parts
from metasum.results.terminal import show


def _settings() -> Iterator[tuple[str, type[Any]]]:
    from metasum.few_shot.request import few_shot_settings

    return few_shot_settings()


@click.command(cls=shared.PluginCommand, settings=_settings, name="few-shot")
@click.option(
    "--learner",
    metavar="A,B,…",
    help="Learners to run side by side, separated by commas [default: all; `metasum learners`].",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many seeds, counted up from --seed."
)
@shared.engine_flags
@shared.report_flag
@shared.plugin_files_flag
@shared.out_flag
@shared.download_flag
@shared.json_flag
@shared.quiet_flag
def few_shot(given: dict[str, Any], **values: Any) -> None:
    """Learn to learn new classes from a few images: Meta Networks, Meta-Transfer Learning, and references.

    Learners are meta-trained on some classes of a dataset, and measured on episodes of others, the same for all: N
    new classes, K images of each to learn them by. Finished runs are kept, so that the command can be repeated with
    more learners or seeds.

    \b
      metasum few-shot
      metasum few-shot --learner meta-networks,maml --ways 5 --shots 5 --jobs 2
      metasum few-shot --learner meta-networks,prototypical --test-ways 3,10,20 --base-filters 16,64
      metasum few-shot --learner meta-networks,maml --then digits --ways 2
    """  # noqa: D301 (click reads the backspace)
    from metasum.few_shot.request import FewShotRequest
    from metasum.few_shot.run import few_shot as run_few_shot
    from metasum.study.engine.display import study_display_for
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    result = run_few_shot(
        FewShotRequest(given),
        learners=shared.words(values["learner"]),
        seeds=values["seeds"],
        out=values["out"],
        download=values["download"],
        report=values["report"],
        engine=shared.engine_of(given, values),
        display=study_display_for(quiet=values["quiet"]),
    )
    show(result, as_json=values["as_json"], parts=few_shot_parts)
    shared.complain(result.failed or ())
