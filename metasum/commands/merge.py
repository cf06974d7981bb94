"""The command that merges files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from metasum.commands.shared import json_flag, overwrite_flag, quiet_flag
from metasum.config import MergeConfig
from metasum.errors import UsageError
from metasum.flags import TolerantCommand, by_hand, chosen, settings_flags
from metasum.results.merge import MergeResult, merge_parts
from metasum.results.terminal import show
from metasum.weights.merging.methods import method_named


@click.command(cls=TolerantCommand)
@click.argument("method")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .safetensors file to write.")
@click.option(
    "--base", type=click.Path(path_type=Path), metavar="FILE", help="What the others were trained from (task vectors)."
)
@settings_flags(MergeConfig)
@click.option("--only", multiple=True, metavar="PATTERN", help="Merge the parameters called so. Can be repeated.")
@click.option(
    "--skip",
    multiple=True,
    metavar="PATTERN",
    help="Take the parameters called so from the first file, whatever the others hold. Can be repeated.",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN=VALUE",
    help="Another scaling, position or weights for the parameters called so; the last match counts. Can be repeated.",
)
@overwrite_flag
@json_flag
@quiet_flag
def merge(**values: Any) -> None:
    """Merge checkpoints of one architecture into one .safetensors file, in little memory.

    FILE is a .safetensors file, the index of a sharded one, a folder with one of either, or a PyTorch file of tensors,
    of any network and size. Floating-point tensors are merged; integers are the first file's. METHOD is one of

    \b
      sum              θ_1 + θ_2 + …
      average          (θ_1 + … + θ_N) / N
      weighted         w_1 θ_1 + w_2 θ_2 + …, --weights
      task-arithmetic  θ_0 + λ Σ (θ_i - θ_0), --base and --scaling
      ties             the same on the largest differences that agree in sign, --density
      dare             the same on randomly thinned differences, --drop-rate
      slerp            along the arc between two files, tensor by tensor, --position

    \b
      metasum merge average a.safetensors b.safetensors -o both.safetensors
      metasum merge ties a.safetensors b.safetensors --base start.safetensors --density 0.3 -o both.safetensors
      metasum merge weighted a.pt b.pt --weights 0.3,0.7 --skip 'head.*' --dtype bfloat16 -o both.safetensors
    """  # noqa: D301 (click reads the backspace)
    name = values["method"]
    for setting in sorted(by_hand(MergeConfig) - {*method_named(name).settings, "dtype", "threads"}):
        raise UsageError(f"--{setting.replace('_', '-')} says nothing to method {name!r}.")
    settings = MergeConfig(**chosen(MergeConfig, values))
    import torch

    from metasum.training.interruption import Interruption
    from metasum.training.memory import peak_bytes, reset_peak
    from metasum.weights.merging.files import merge_files

    reset_peak(torch.device("cpu"))
    asked = ("files", "output", "base", "only", "skip", "layers", "overwrite")
    with Interruption() as interruption, _bar(f"{name} of {len(values['files'])}", quiet=values["quiet"]) as progress:
        merged = merge_files(
            name,
            **{key: values[key] for key in asked},
            settings=settings,
            progress=progress,
            cancelled=lambda: interruption.requested,
        )
    done = {**merged._asdict(), "files": tuple(merged.files)}
    result = MergeResult(**done, peak_bytes=peak_bytes(torch.device("cpu")))
    show(result, as_json=values["as_json"], parts=merge_parts)


@contextmanager
def _bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal's stderr."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", style="bold"), BarColumn(bar_width=None), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as display:
        task = display.add_task(title, total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)
