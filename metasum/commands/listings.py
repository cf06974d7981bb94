"""Commands that look around: tasks, learners, methods, benchmark."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from metasum.commands.shared import PluginCommand, json_flag, plugin_flag, root_flag
from metasum.config import options_of
from metasum.results.benchmark_tables import benchmark_parts
from metasum.results.listings import learners_parts, methods_parts, tasks_parts
from metasum.results.terminal import show


@click.command(cls=PluginCommand)
@root_flag
@plugin_flag
@json_flag
def tasks(data_root: Path, as_json: bool) -> None:
    """List datasets and task pairs, with where each comes from."""
    from metasum.tasks.registry import PAIRS, known_datasets

    result = {
        "datasets": [
            {"name": name, "summary": summary, "source": source}
            for name, (summary, source) in known_datasets(data_root).items()
        ],
        "pairs": [{**asdict(pair), "name": pair.name} for pair in PAIRS.values()],
    }
    show(result, as_json=as_json, parts=tasks_parts)


@click.command(cls=PluginCommand)
@plugin_flag
@json_flag
def learners(as_json: bool) -> None:
    """List ways of training, then few-shot learners, with where each comes from."""
    from metasum.baselines.registry import FEW_SHOT, LEARNERS

    rows, few_shot = (
        [{"name": name, "summary": entry.summary, "source": entry.source} for name, entry in known.entries.items()]
        for known in (LEARNERS, FEW_SHOT)
    )
    show({"learners": rows, "few_shot": few_shot}, as_json=as_json, parts=learners_parts)


@click.command(cls=PluginCommand)
@plugin_flag
@json_flag
def methods(as_json: bool) -> None:
    """List methods of merging, with what each needs and leaves open.

    Those that need no more than files are methods of `metasum merge`; all are operators of `metasum sum`.
    """
    from metasum.merging import METHODS

    rows = [
        {
            "name": name,
            "summary": method.summary,
            "needs": method.needs(),
            "settings": [setting.name for setting in options_of(method.Config)],
            "paper": method.paper,
            "source": METHODS.entries[name].source,
        }
        for name, method in METHODS.items()
    ]
    show({"methods": rows}, as_json=as_json, parts=methods_parts)


@click.command(cls=PluginCommand)
@settings_flags(BenchmarkConfig)
@json_flag
def benchmark(as_json: bool, **values: Any) -> None:
    """Time training steps against the plain forward and backward passes that they cannot do without.

    All that is compared runs in turn in one process, so that ratios hold on a noisy machine. The minimum is counted:
    the matrix products and convolutions of a step, in units of a plain pass of the network. Joint MetaSum's step
    stands beside the same loss in the shapes that it is usually written in, a step of meta-training
    (`--learner metasum-meta`) beside the same loop in plain learn2learn and in plain higher. The optimiser's update,
    the way of images to the device, memory at its peak and evaluation are measured with `--measure`.

    \b
      metasum benchmark
      metasum benchmark --measure all --width 0.25
      metasum benchmark --learner all --width 0.25 --batch-size 32
      metasum benchmark --precision 32,bf16-mixed --memory-format contiguous,channels-last
      metasum benchmark --learner metasum-meta --width 0.25 --batch-size 32
    """  # noqa: D301 (click reads the backspace)
    config = BenchmarkConfig(**values)
    from metasum.assembly.benchmarking import run_benchmark
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    result = run_benchmark(config, say=lambda text: click.echo(f"{text} …", err=True))
    show(result, as_json=as_json, parts=benchmark_parts)
