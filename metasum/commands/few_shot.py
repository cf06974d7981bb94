"""The command on learning from few examples."""

from __future__ import annotations

from typing import Any

import click

from metasum.commands.shared import (
    display_maker,
    download_flag,
    json_flag,
    load_plugins,
    out_flag,
    plugin_flag,
    quiet_flag,
    words,
)
from metasum.config import FewShotConfig
from metasum.config.flags import TolerantCommand, chosen, settings_flags
from metasum.results.few_shot_tables import few_shot_parts
from metasum.results.terminal import show


@click.command(cls=TolerantCommand, name="few-shot")
@click.option(
    "--learner",
    metavar="A,B,…",
    help="Learners to run side by side, separated by commas: meta-networks, meta-transfer, maml, prototypical, "
    "fine-tuning, classifier-tuning, from-scratch [default: all].",
)
@settings_flags(FewShotConfig)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many seeds, counted up from --seed."
)
@plugin_flag
@out_flag
@download_flag
@json_flag
@quiet_flag
def few_shot(**values: Any) -> None:
    """Learn to learn new classes from a few images: Meta Networks, Meta-Transfer Learning, and references.

    Learners are meta-trained on some classes of a dataset, and measured on episodes of others, the same for all: N
    new classes, K images of each to learn them by. Finished runs are kept, so that the command can be repeated with
    more learners or seeds.

    \b
      metasum few-shot
      metasum few-shot --learner meta-networks,maml --ways 5 --shots 5
      metasum few-shot --learner meta-networks,prototypical --test-ways 3,10,20 --base-filters 16,64
      metasum few-shot --learner meta-networks,maml --then digits --ways 2
    """  # noqa: D301 (click reads the backspace)
    load_plugins(values["plugin"])
    config = FewShotConfig(**chosen(FewShotConfig, values))
    from metasum.assembly.few_shot import few_shot as run_few_shot
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    result = run_few_shot(
        config,
        learners=words(values["learner"]),
        seeds=values["seeds"],
        out=values["out"],
        download=values["download"],
        displays=display_maker(quiet=values["quiet"]),
    )
    show(result, as_json=values["as_json"], parts=few_shot_parts)
