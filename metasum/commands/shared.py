"""Flags that several commands have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import click

from metasum.config.flags import SettingsCommand
from metasum.config.words import Device
from metasum.errors import MetaSumError
from metasum.results.surroundings import Failed
from metasum.third_party import INSTALLING, has_learn2learn

if TYPE_CHECKING:
    from metasum.study.engine.sequential import Engine

Flag: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

json_flag = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
quiet_flag = click.option("--quiet", is_flag=True, help="No progress on stderr.")
_plugin = partial(
    click.option,
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE.py",
    help="Run this Python file first; it registers datasets, pairs, learners or merging methods, whose settings are "
    "flags then. Can be repeated.",
)
plugin_flag = _plugin(expose_value=False)
plugin_files_flag = _plugin("plugins")
"""The same for a command that hands the files on, as `plugins`: other processes are to run them, too."""
root_flag = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    default=Path(".data"),
    show_default=True,
    help="Folder with datasets.",
)
out_flag = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
download_flag = click.option("--download", is_flag=True, help="Let torchvision fetch a dataset that is not there.")
learners_flag = click.option(
    "--learners",
    metavar="A,B,…",
    help="Learners to run, or groups of them, separated by commas [default: all; see `metasum learners`].",
)
seeds_flag = click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How many seeds, counted up from --seed.",
)
tune_flag = click.option(
    "--tune/--no-tune",
    "tuned",
    default=True,
    show_default=True,
    help="Choose the settings that a learner has candidates for on validation images first; --no-tune takes the "
    "defaults. A setting given by hand is never tuned.",
)
report_flag = click.option("--report/--no-report", default=True, show_default=True, help="Draw report.html at the end.")
jobs_flag = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs at a time, each in a process with its share of the cores; fewer where memory does not suffice.",
)
scheduler_flag = click.option(
    "--scheduler",
    metavar="ADDRESS|FILE|local",
    help="Run on the workers of this Dask scheduler, on any machines that share the folder --out: tcp://HOST:8786, the "
    "file that `dask scheduler --scheduler-file` writes, or local, which has --jobs workers here. Needs "
    "metasum[dask]; see docs/clusters.md.",
)
overwrite_flag = click.option("--overwrite", is_flag=True, help="Replace a result that is there.")
device_flag = click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    default="auto",
    show_default=True,
    help="Where to run; auto takes a GPU.",
)


def _run_settings() -> Iterator[tuple[str, type[Any]]]:
    from metasum.run.request import run_settings

    return run_settings()


class PluginCommand(SettingsCommand):
    """A command that runs plug-ins before it looks at its flags, which they may add to."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from metasum.plugins import load_entry_points, run_plugin

        load_entry_points()
        own = args[: args.index("--")] if "--" in args else args
        apart = [value for flag, value in itertools.pairwise(own) if flag == "--plugin"]
        for file in (*apart, *(arg.partition("=")[2] for arg in own if arg.startswith("--plugin="))):
            run_plugin(Path(file))
        return super().parse_args(ctx, args)


run_command = partial(click.command, cls=PluginCommand, settings=_run_settings)
"""A decorator for a command whose flags are the settings of a run; it gets the given ones as `given`."""


def flags(*every: Flag) -> Flag:
    """A decorator that gives a command several flags, which `--help` lists in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for flag in reversed(every):
            function = flag(function)
        return function

    return decorate


engine_flags = flags(jobs_flag, scheduler_flag)
"""How a study runs; `engine_of` makes an engine of them."""


def engine_of(given: Mapping[str, Any], values: Mapping[str, Any]) -> Engine:
    """What runs the cells of a study, by the command's settings and flags (`engine_flags`, --plugin and --out).

    Raises:
        UsageError: Dask is asked for and not installed, or flags do not go together.
    """
    from metasum.study.engine.choice import engine_for

    device = given.get("device", "auto")
    flags = {name: values[name] for name in ("scheduler", "out", "plugins")}
    return engine_for(values["jobs"], device=device, **flags)


def tell_backend(given: Mapping[str, Any], learners: Iterable[str], *, quiet: bool) -> None:
    """Says, once a command, what runs summed networks where nobody chose it and learn2learn is not here."""
    from metasum.baselines.registry import LEARNERS
    from metasum.learners.learner import settings_read_by

    if quiet or "backend" in given or has_learn2learn():
        return
    if any("backend" in settings_read_by(LEARNERS[name]) for name in learners if name in LEARNERS):
        click.echo(
            f"learn2learn is not installed: torch runs summed networks, with the same results ({INSTALLING})", err=True
        )


def complain(failed: Sequence[Failed]) -> None:
    """Exit code 1 where a run of a study failed; everything else is written by then."""
    if failed:
        first = failed[0]
        count = f"{len(failed)} runs failed, the first" if len(failed) > 1 else "a run failed"
        raise MetaSumError(f"{count}, {Path(first.run).name}: {first.error}")


def words(text: str | None) -> list[str] | None:
    """The words of a comma-separated list; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
