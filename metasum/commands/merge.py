"""The command that merges files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from metasum.commands.bars import bar
from metasum.commands.merge_yaml import YAML, check_yaml, merge_yaml
from metasum.commands.own_networks import (
    files_in,
    keep_flag,
    own_network,
    own_network_flags,
    refuse_without_model,
    say,
    silent,
)
from metasum.commands.shared import PluginCommand, device_flag, json_flag, overwrite_flag, plugin_flag, quiet_flag
from metasum.config import flag_of, options_of
from metasum.errors import UsageError
from metasum.merging import METHODS
from metasum.merging.disk.config import MergeConfig
from metasum.merging.endpoints import WideningMethod
from metasum.merging.method import Method
from metasum.merging.tensors import TensorMethod
from metasum.results.merge import MergeResult, merge_parts
from metasum.results.terminal import show

OF_FILES = [method for method in METHODS.values() if method.merges_files]
WITH_MODEL = [
    method
    for method in METHODS.values()
    if not (issubclass(method, TensorMethod | WideningMethod) or method.knows_task)
]
LAYERED = ", ".join(dict.fromkeys(str(method.layered) for method in OF_FILES if method.layered))


def _line(method: type[Method]) -> str:
    base = ["--base"] if method.needs_base or method.takes_base else []
    flags = base + [option.flag for option in options_of(method.Config)]
    formula = (method.__doc__ or "").split(".")[0]
    return f"      {method.name:<16} {formula}{': ' * bool(flags)}{', '.join(flags)}"


HELP = f"""Merge checkpoints of one architecture into one .safetensors file, in little memory.

    FILE is a .safetensors file, the index of a sharded one, a folder with one of either, or a PyTorch file of tensors,
    of any network and size. Floating-point tensors are merged, but for running means and variances, which are averaged;
    integers must be the same in all, but for counters, which are the first file's. METHOD is one of

    \b
{chr(10).join(map(_line, OF_FILES))}

    With --model, the function that makes the network, every method can be taken that leaves its architecture as it is:

    \b
{chr(10).join(map(_line, WITH_MODEL))}

    --images then names a .npz file for each checkpoint, with an array x or images or in the Keras layout (its training
    half is read): images in uint8 become 0 to 1, other arrays are taken as they are. Running statistics are recomputed
    on all of them. With --keep each network keeps the parameters called so, a head of its own classes for instance, and
    a file is written for each: -o both.safetensors leaves both-1.safetensors, both-2.safetensors, …

    \b
      metasum merge average a.safetensors b.safetensors -o both.safetensors
      metasum merge ties a.safetensors b.safetensors --base start.safetensors --density 0.3 -o both.safetensors
      metasum merge weighted a.pt b.pt --weights 0.3,0.7 --skip 'head.*' --dtype bfloat16 -o both.safetensors
      metasum merge regmean a.pt b.pt --model my_model.py:make --images a.npz,b.npz -o both.safetensors
      metasum merge average a.pt b.pt --model m.py:digits,m.py:letters --keep 'head.*' -o both.safetensors

    In place of METHOD and FILEs there may be a YAML file as mergekit reads it, with local models: merge_method, models
    or slices, base_model, parameters, dtype. OUTPUT is then a .safetensors file or a new folder, with a config.json.

    \b
      metasum merge ties.yml -o merged
    """


def _settings() -> Iterator[tuple[str, type[Any]]]:
    yield from ((method.name, method.Config) for method in METHODS.values())
    yield "", MergeConfig


@click.command(cls=PluginCommand, settings=_settings, help=HELP)
@click.argument("method", metavar="METHOD|CONFIG.yml")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The .safetensors file to write; with CONFIG.yml, that or a folder.",
)
@click.option(
    "--base", type=click.Path(path_type=Path), metavar="FILE", help="What the others were trained from (task vectors)."
)
@click.option("--seed", type=click.IntRange(0, 2**62 - 1), help="Seed of what DARE and DELLA draw  [default: 0].")
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN=VALUE",
    help=f"Another value ({LAYERED}) for the parameters called so; the last match counts. Can be repeated.",
)
@own_network_flags()
@keep_flag
@click.option("--images", metavar="FILE.npz,…", help="Data that each checkpoint was trained on (with --model).")
@device_flag
@plugin_flag
@overwrite_flag
@json_flag
@quiet_flag
def merge(given: dict[str, Any], **values: Any) -> None:
    of_files = {leaf.name for leaf in options_of(MergeConfig)}
    settings = MergeConfig(**{name: value for name, value in given.items() if name in of_files})
    in_yaml = values["method"].lower().endswith(YAML)
    if in_yaml:
        check_yaml(values, given)
    elif not values["files"]:
        raise UsageError("FILE… is missing: name the checkpoints to merge.")
    else:
        method = _method(values, {name: value for name, value in given.items() if name not in of_files})
    from metasum.training.memory import peak_bytes, reset_peak

    reset_peak()
    note = silent if values["quiet"] else say
    if values["model"] is not None:
        merged = _merge_networks(method, settings, values, note)
    else:
        refuse_without_model(values, "mean", "std", "images", "keep")
        merged = merge_yaml(settings, values) if in_yaml else _merge_files(method, settings, values)
        for told in merged.notes or ():
            note(told)
    result = dataclasses.replace(merged, peak_bytes=peak_bytes())
    show(result, as_json=values["as_json"], parts=merge_parts)


def _merge_networks(
    method: Method, settings: MergeConfig, values: dict[str, Any], note: Callable[[str], None]
) -> MergeResult:
    from metasum.merging.disk.files import check_place
    from metasum.run.own_merges import merge_checkpoints, places_of

    for place in places_of(values["output"], len(values["files"]) if values["keep"] else 1):
        check_place(place, values["overwrite"])
    return merge_checkpoints(
        method,
        values["files"],
        values["output"],
        own=own_network(values),
        images=files_in([values["images"] or ""]),
        base=values["base"],
        settings=settings,
        note=note,
    )


def _merge_files(method: Method, settings: MergeConfig, values: dict[str, Any]) -> MergeResult:
    from metasum.merging.disk.files import merge_files
    from metasum.training.interruption import Interruption

    title = f"{method.name} of {len(values['files'])}"
    with Interruption() as interruption, bar(title, quiet=values["quiet"]) as progress:
        return merge_files(
            method,
            **{key: values[key] for key in ("files", "output", "base", "overwrite")},
            settings=settings,
            progress=progress,
            cancelled=lambda: interruption.requested,
        )


def _method(values: dict[str, Any], given: dict[str, Any]) -> Method:
    """The method that the flags describe; raises UsageError for one that says nothing to it."""
    kind = METHODS.named(values["method"])
    own = {leaf.name for leaf in options_of(kind.Config)}
    for setting in sorted(set(given) - own):
        raise UsageError(f"{flag_of(setting)} says nothing to method {kind.name!r}.")
    if values["seed"] is not None and not kind.random:
        raise UsageError(f"--seed says nothing to method {kind.name!r}.")
    layers = _layers(values["layers"], kind)
    return kind(kind.Config(**given), seed=values["seed"] or 0, layers=layers)


def _layers(texts: Sequence[str], kind: type[Method]) -> list[tuple[str, Any]]:
    """Pairs of a pattern and a value, from "PATTERN=VALUE"."""
    option = next((option for option in options_of(kind.Config) if option.name == kind.layered), None)
    pairs = []
    for text in texts:
        pattern, _, value = text.rpartition("=")
        numbers: list[float] = []
        with contextlib.suppress(ValueError):
            numbers = [float(word) for word in value.split(",")]
        if not pattern or not numbers or (option and not option.many and len(numbers) > 1):
            raise UsageError(f"--layers takes PATTERN=VALUE, for instance '*.bias=0.5', not {text!r}.")
        pairs.append((pattern, tuple(numbers) if option and option.many else numbers[0]))
    return pairs
