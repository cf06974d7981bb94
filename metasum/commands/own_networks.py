"""Commands on networks of the user's own, which a function makes and checkpoints hold: flags, and compare-networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metasum.commands import shared
from metasum.commands.shared import Flag, flags
from metasum.errors import UsageError
from metasum.plain_text import plain
from metasum.results.terminal import show

if TYPE_CHECKING:
    from metasum.run.own_networks import OwnNetwork

MODEL = "Function that makes the network: a Python file's, or package.module:FUNCTION."
MODELS = f"{MODEL} With --keep one for each checkpoint, where their heads are of different sizes, with commas between."


keep_flag = click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Parameters called so are each network's own: heads of different tasks. Can be repeated.",
)


def own_network_flags(*, required: bool = False, several: bool = True) -> Flag:
    """--model (of several networks, or of one), --mean and --std."""
    metavar, told = ("FILE.py:FUNCTION,…", MODELS) if several else ("FILE.py:FUNCTION", MODEL)
    return flags(
        click.option("--model", required=required, metavar=metavar, help=told),
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
    models = tuple(shared.words(values["model"]) or ())
    return OwnNetwork(models, **moments, device=make_fabric(values["device"]).device, keep=values.get("keep", ()))


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
    click.echo(plain(sentence), err=True)


def silent(sentence: str) -> None:
    """With --quiet."""


@click.command(cls=shared.PluginCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE FILE…")
@own_network_flags(required=True)
@click.option(
    "--on",
    multiple=True,
    required=True,
    metavar="FILE.npz,…",
    help="Labelled data to measure on; a file for each checkpoint, in order, where methods have to know the task. "
    "Can be repeated.",
)
@click.option(
    "--images",
    metavar="FILE.npz,…",
    help="Data that each checkpoint was trained on  [default: the training halves of --on, where it has a file in the "
    "Keras layout for each].",
)
@click.option("--base", type=click.Path(path_type=Path), metavar="FILE", help="What all were trained from.")
@click.option("--methods", metavar="A,B,…", help="Merging methods  [default: all that merge such networks].")
@keep_flag
@click.option("--seed", type=click.IntRange(0, 2**62 - 1), default=0, show_default=True, help="Of what methods draw.")
@shared.device_flag
@shared.plugin_flag
@shared.out_flag
@click.option("--name", help="Name of the result's folder in OUT/networks [default: the checkpoints' names].")
@shared.overwrite_flag
@shared.json_flag
@shared.quiet_flag
def compare_networks(**values: Any) -> None:
    """Compare finished networks: each alone, merged by every method, and as an ensemble.

    FILE is a checkpoint of a network that --model makes. Leaves results.json, results.csv and report.html in
    OUT/networks/NAME. Data is as in `metasum evaluate`; of two networks, the line between them is drawn, too. With
    --keep each is measured on the file of --on that stands in its place, with its own head.

    \b
      metasum compare-networks a.pt b.pt --model my_model.py:make --on a.npz,b.npz
      metasum compare-networks a.pt b.pt --model m.py:digits,m.py:letters --keep 'head.*' --on a.npz,b.npz
    """  # noqa: D301 (click reads the backspace)
    from metasum.results.networks import networks_table
    from metasum.run.own_comparison import Choice, compare_checkpoints, folder_of

    methods = shared.words(values["methods"])
    files = values["files"]
    folder = folder_of(values["out"], values["name"], files, overwrite=values["overwrite"])
    result = compare_checkpoints(
        files,
        own_network(values),
        files_in(values["on"]),
        folder,
        images=files_in([values["images"] or ""]),
        base=values["base"],
        choice=Choice(None if methods is None else tuple(methods), values["seed"]),
        note=silent if values["quiet"] else say,
    )
    show(result, as_json=values["as_json"], parts=lambda found: [networks_table(found), str(folder)])
