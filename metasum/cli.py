"""The command line: parses, builds settings, makes one call, prints. A command imports what it needs inside it."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from metasum.config import BenchmarkConfig, TrainConfig, settings
from metasum.errors import Interrupted, MetaSumError, reason
from metasum.flags import TolerantCommand, TolerantGroup, chosen, settings_flags
from metasum.tables import benchmark_tables, learners_tables, show, tasks_tables, train_tables

json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
quiet_flag = click.option("--quiet", is_flag=True, help="No progress on stderr.")
plugin_flag = click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE.py",
    help="Run this Python file first; it registers datasets, pairs or learners. Can be repeated.",
)
root_flag = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    default=Path(".data"),
    show_default=True,
    help="Folder with datasets.",
)


@click.group(cls=TolerantGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="metasum")
def metasum() -> None:
    """Train neural networks so that their weights can be added.

    \b
    Start here (no data, no network needed, about a minute):
      metasum train
    On real images (with mnist.npz and cifar10.npz in .data, or --download):
      metasum train --target mnist --support cifar10
    Compare with networks that were trained with no thought of being added:
      metasum train --target mnist --support cifar10 --learner independent
    """  # noqa: D301 (click reads the backspace)


@metasum.command(cls=TolerantCommand)
@settings_flags(TrainConfig)
@plugin_flag
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs.")
@click.option("--name", help="Name of the run's folder [default: LEARNER-seedSEED].")
@click.option("--resume", is_flag=True, help="Continue this run where it was stopped; give the same flags.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is there.")
@click.option("--download", is_flag=True, help="Let torchvision fetch a dataset that is not there.")
@click.option("--report/--no-report", default=True, show_default=True, help="Draw report.html at the end.")
@json_flag
@quiet_flag
def train(**values: Any) -> None:
    """Train a target and a support network, and measure their sum.

    Two networks of one architecture learn two datasets; a third, whose every weight is the sum of theirs, should
    do on the target what the target network does alone. Accuracy is measured before the sum and after it.

    With no options: handwritten digits and rendered letters, both embedded, in about a minute.
    """
    _load_plugins(values["plugin"])
    config = settings(**chosen(TrainConfig, values))
    from metasum.assembly import training
    from metasum.training.memory import keep_freed_memory
    from metasum.training.progress import display_for

    keep_freed_memory()
    result = training.train(
        config,
        out=values["out"],
        name=values["name"],
        resume=values["resume"],
        overwrite=values["overwrite"],
        download=values["download"],
        report=values["report"],
        display=display_for(quiet=values["quiet"]),
    )
    show(result, as_json=values["as_json"], parts=train_tables)


@metasum.command(cls=TolerantCommand)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@json_flag
def report(runs: tuple[Path, ...], as_json: bool) -> None:
    """Redraw report.html of finished runs, named by their folders."""
    from metasum.report.page import write_report
    from metasum.training.run_folder import RunFolder

    paths = [str(write_report(RunFolder.open(run))) for run in runs]
    show({"reports": paths}, as_json=as_json, parts=lambda result: result["reports"])


@metasum.command(cls=TolerantCommand)
@root_flag
@plugin_flag
@json_flag
def tasks(data_root: Path, plugin: tuple[Path, ...], as_json: bool) -> None:
    """List datasets and task pairs, with where each comes from."""
    _load_plugins(plugin)
    from metasum.tasks.registry import PAIRS, known_datasets

    result = {
        "datasets": [
            {"name": name, "summary": summary, "source": source}
            for name, (summary, source) in known_datasets(data_root).items()
        ],
        "pairs": [{**asdict(pair), "name": pair.name} for pair in PAIRS.values()],
    }
    show(result, as_json=as_json, parts=tasks_tables)


@metasum.command(cls=TolerantCommand)
@plugin_flag
@json_flag
def learners(plugin: tuple[Path, ...], as_json: bool) -> None:
    """List ways of training, with where each comes from."""
    _load_plugins(plugin)
    from metasum.baselines.registry import LEARNERS

    rows = [{"name": name, "summary": entry.summary, "source": entry.source} for name, entry in LEARNERS.items()]
    show({"learners": rows}, as_json=as_json, parts=learners_tables)


@metasum.command(cls=TolerantCommand)
@settings_flags(BenchmarkConfig)
@json_flag
def benchmark(as_json: bool, **values: Any) -> None:
    """Time MetaSum's training step against three plain forward and backward passes of the same network.

    Both are timed in turn in one process, so that their ratio holds on a noisy machine. The optimiser's update is
    timed apart: it is the same for any way of training two networks.
    """
    config = BenchmarkConfig(**values)
    from metasum.study.benchmark import run_benchmark
    from metasum.training.memory import keep_freed_memory

    keep_freed_memory()
    show(run_benchmark(config), as_json=as_json, parts=benchmark_tables)


def _load_plugins(files: tuple[Path, ...]) -> None:
    from metasum.plugins import load_entry_points, run_plugin

    load_entry_points()
    for file in files:
        run_plugin(file)


def main() -> None:
    """Entry point: exit codes 0, 1 (failure), 2 (bad usage), 130 (interrupted); one line for an error."""
    try:
        metasum(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        _fail(error.format_message(), 2, error)
    except Interrupted as error:
        again = shlex.join(a for a in sys.argv[1:] if a not in ("--resume", "--overwrite"))
        _fail(f"{error} Continue with: metasum {again} --resume", error.exit_code, error)
    except MetaSumError as error:
        _fail(str(error), error.exit_code, error)
    except (click.Abort, KeyboardInterrupt) as error:
        _fail("interrupted; a run that was under way can be continued with --resume.", Interrupted.exit_code, error)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}.", 1, error)
    except Exception as error:  # noqa: BLE001 (the last line of defence: one sentence, never a traceback)
        if isinstance(error, MemoryError) or "memory" in reason(error).lower():
            _fail(f"there is not enough memory ({reason(error)}); try a smaller --width or --batch-size.", 1, error)
        _fail(f"{type(error).__name__}: {reason(error)} (METASUM_DEBUG=1 shows where).", 1, error)


def _fail(sentence: str, code: int, error: BaseException) -> None:
    if os.environ.get("METASUM_DEBUG") == "1":
        raise error
    click.echo(f"metasum: {sentence}", err=True)
    sys.exit(code)
