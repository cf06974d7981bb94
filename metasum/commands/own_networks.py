"""Flags of commands on networks of the user's own, which a function makes and checkpoints hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metasum.commands.shared import Flag, flags
from metasum.errors import UsageError

if TYPE_CHECKING:
    from metasum.run.own_networks import OwnNetwork

MODEL = "Function that makes the network: a Python file's, or package.module:FUNCTION."


def own_network_flags(*, required: bool = False) -> Flag:
    """--model, --mean and --std."""
    return flags(
        click.option("--model", required=required, metavar="FILE.py:FUNCTION", help=MODEL),
        click.option(
            "--mean",
            metavar="NUMBER,…",
            help="Images in uint8 become 0 to 1; subtract this from each channel, divide by --std  [default: none].",
        ),
        click.option("--std", metavar="NUMBER,…", help="See --mean."),
    )


def own_network(values: dict[str, Any]) -> OwnNetwork:
    """The network that these flags, and --device, describe."""
    from metasum.run.array_files import moments_of
    from metasum.run.own_networks import OwnNetwork
    from metasum.training.optimisation import make_fabric

    moments = moments_of({"mean": values["mean"], "std": values["std"]})
    return OwnNetwork(values["model"], **moments, device=make_fabric(values["device"]).device)


def refuse_without_model(values: dict[str, Any], *names: str) -> None:
    """Raises UsageError for a flag that only says something about a network of one's own, where there is no --model."""
    for name in names:
        if values[name]:
            raise UsageError(f"--{name.replace('_', '-')} is for networks of your own; add --model FILE.py:FUNCTION.")


def files_in(texts: Sequence[str]) -> list[Path]:
    """Paths that stand one after another, or with commas between them."""
    return [Path(word.strip()) for text in texts for word in text.split(",") if word.strip()]


def say(sentence: str) -> None:
    """To stderr, where stdout is a result's."""
    click.echo(sentence, err=True)


def silent(sentence: str) -> None:
    """With --quiet."""
