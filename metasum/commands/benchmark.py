"""The command that times what metasum does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from metasum.commands.shared import PluginCommand, json_flag, plugin_flag
from metasum.plain_text import plain
from metasum.results.benchmark_tables import benchmark_parts
from metasum.results.terminal import show
from metasum.third_party import INSTALLING, has_learn2learn


def _settings() -> Iterator[tuple[str, type[Any]]]:
    from metasum.benchmark.config import BenchmarkConfig
    from metasum.benchmark.plan import timeable

    yield "", BenchmarkConfig
    yield from ((learner.name, learner.Config) for learner in timeable())


# which backend runs a step is `--backends` here
@click.command(cls=PluginCommand, settings=_settings, leave_out=("backend",))
@plugin_flag
@json_flag
def benchmark(given: dict[str, Any], *, as_json: bool) -> None:
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
      metasum benchmark --plugin my_learner.py --learner mine
    """  # noqa: D301 (click reads the backspace)
    from metasum.benchmark.run import run_benchmark
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    if "backends" not in given and not has_learn2learn():
        click.echo(f"learn2learn is not installed, its rows are left out ({INSTALLING})", err=True)
    result = run_benchmark(given, say=lambda text: click.echo(plain(f"{text} …"), err=True))
    show(result, as_json=as_json, parts=benchmark_parts)
