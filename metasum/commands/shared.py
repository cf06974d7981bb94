"""Flags that several commands have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metasum.config.flags import SettingsCommand

if TYPE_CHECKING:
    pass

DEVICES = ("auto", "cpu", "cuda", "mps")

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
    "--learners", metavar="A,B,…", help="Learners to run, separated by commas [default: all; `metasum learners`]."
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
overwrite_flag = click.option("--overwrite", is_flag=True, help="Replace a result that is there.")
device_flag = click.option(
    "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Where to run; auto takes a GPU."
)


def load_plugins(files: Sequence[Path]) -> None:
    """Entry points, then the files."""
    from metasum.plugins import load_entry_points, run_plugin

    load_entry_points()
    for file in files:
        run_plugin(file)


def run_settings() -> Iterator[tuple[str, type[Any]]]:
    """Every dataclass of a run's settings, with the learner that reads it."""
    from metasum.run.request import run_settings as found

    return found()


class PluginCommand(SettingsCommand):
    """A command that runs plug-ins before it looks at its flags, which they may add to."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, plugins=load_plugins, **attributes)


run_command = partial(click.command, cls=PluginCommand, settings=run_settings)
"""A decorator for a command whose flags are the settings of a run; it gets the given ones as `given`."""


def words(text: str | None) -> list[str] | None:
    """The words of a comma-separated list; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
