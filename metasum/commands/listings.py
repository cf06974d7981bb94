"""Commands that look around: tasks, learners, benchmark."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from metasum.commands.shared import json_flag, load_plugins, plugin_flag, root_flag
from metasum.config import BenchmarkConfig
from metasum.flags import TolerantCommand, settings_flags
from metasum.tables import benchmark_tables, learners_tables, show, tasks_tables


@click.command(cls=TolerantCommand)
@root_flag
@plugin_flag
@json_flag
def tasks(data_root: Path, plugin: tuple[Path, ...], as_json: bool) -> None:
    """List datasets and task pairs, with where each comes from."""
    load_plugins(plugin)
    from metasum.tasks.registry import PAIRS, known_datasets

    result = {
        "datasets": [
            {"name": name, "summary": summary, "source": source}
            for name, (summary, source) in known_datasets(data_root).items()
        ],
        "pairs": [{**asdict(pair), "name": pair.name} for pair in PAIRS.values()],
    }
    show(result, as_json=as_json, parts=tasks_tables)


@click.command(cls=TolerantCommand)
@plugin_flag
@json_flag
def learners(plugin: tuple[Path, ...], as_json: bool) -> None:
    """List ways of training, with where each comes from."""
    load_plugins(plugin)
    from metasum.baselines.registry import LEARNERS

    rows = [{"name": name, "summary": entry.summary, "source": entry.source} for name, entry in LEARNERS.items()]
    show({"learners": rows}, as_json=as_json, parts=learners_tables)


@click.command(cls=TolerantCommand)
@settings_flags(BenchmarkConfig)
@json_flag
def benchmark(as_json: bool, **values: Any) -> None:
    """Time MetaSum's training step against the plain forward and backward passes that it cannot do without.

    All are timed in turn in one process, so that their ratio holds on a noisy machine. The optimiser's update is
    timed apart: it is the same for any way of training. With `--learner metasum-meta`, a second-order meta-training
    step is timed beside the same loop in plain learn2learn and in plain higher.

    \b
      metasum benchmark
      metasum benchmark --learner metasum-meta --width 0.25 --batch-size 32
    """  # noqa: D301 (click reads the backspace)
    config = BenchmarkConfig(**values)
    from metasum.study.benchmark import run_benchmark
    from metasum.study.meta_benchmark import run_meta_benchmark
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    run = run_meta_benchmark if config.learner == "metasum-meta" else run_benchmark
    show(run(config), as_json=as_json, parts=benchmark_tables)
