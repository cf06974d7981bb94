"""Checkpoints of a network of one's own compared: alone, merged by every method, and as an ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from metasum.errors import UsageError
from metasum.files import check_folder_name, make_folder, write_json, write_text
from metasum.modules.comparing import compare
from metasum.results.exports import as_csv
from metasum.results.networks import NetworksResult
from metasum.run.own_networks import Note, OwnNetwork, check_images

RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is compared of all that could be."""

    methods: tuple[str, ...] | None = None
    """By name [default: all that merge such networks]."""
    seed: int = 0
    """Of what methods draw."""


def folder_of(out: Path, name: str | None, files: Sequence[Path], *, overwrite: bool) -> Path:
    """Where a comparison is left: OUT/networks/NAME.

    Raises:
        UsageError: the name cannot be a folder's, or there is a comparison already that is not to be replaced.
    """
    name = name or "+".join(file.stem for file in files)
    check_folder_name("a comparison called", name)
    folder = out / "networks" / name
    if (folder / RESULTS).exists() and not overwrite:
        raise UsageError(f"{folder} holds a comparison already; use --overwrite to replace it, or another --name.")
    return folder


def compare_checkpoints(
    files: Sequence[Path],
    own: OwnNetwork,
    on: Sequence[Path],
    folder: Path,
    *,
    images: Sequence[Path] = (),
    base: Path | None = None,
    choice: Choice | None = None,
    note: Note = lambda _: None,
) -> NetworksResult:
    """Measures checkpoints, what each method makes of them, and their ensemble; see `metasum.compare`.

    Leaves results.json, results.csv and report.html in `folder`, once everything is measured.

    Args:
        files: two or more checkpoints.
        own: the networks, and what they keep.
        on: labelled .npz files; of the Keras layout the test half is read. As many as checkpoints, with `images` or
            training halves, they are the checkpoints' own tasks, in their order.
        folder: where results are left; it is made.
        images: a .npz file for each checkpoint, of what it was trained on [default: the training halves of `on`, where
            these are in the Keras layout and as many as the checkpoints].
        base: what all were trained from, for the methods that work on differences from it.
        choice: methods, and what they do not merge.
        note: hears what was taken out of a file, or left off its names, and what is read by default.

    Raises:
        UsageError: a function, method, pattern or data that makes no sense here.
        DatasetError: a .npz file is missing or damaged, or has no labels.
        CheckpointError: a checkpoint is missing or damaged.
        ArchitectureError: one does not fit the network.
        StorageError: the results cannot be written.
    """
    choice = choice or Choice()
    _check(files, on, images)
    networks = own.load(files, note)
    asked = networks if own.keep and len(on) == len(files) else networks[:1] * len(on)
    data = {str(path): own.data(path, "test", net, labelled=True) for path, net in zip(on, asked, strict=True)}
    own_data = False
    if len(on) == len(files) and images:
        own_data = True
        note("each file of --on is taken as data of the task of the checkpoint in its place.")
    elif len(on) == len(files) and all(each.has_other_half for each in data.values()):
        images, own_data = on, True
        note("methods that look at data, and statistics, are given the training halves of the files in --on.")
    result = compare(
        {str(file): network for file, network in zip(files, networks, strict=True)},
        list(data.items()) if own_data else data,
        methods=choice.methods,
        images=[own.data(path, "train", net) for path, net in zip(images, networks, strict=False)] or None,
        base=None if base is None else own.base(base, note),
        keep=own.keep,
        seed=choice.seed,
    )
    make_folder(folder)
    write_text(folder / "results.csv", as_csv(result.table))
    result.page(folder / "report.html")
    write_json(folder / RESULTS, result.to_json())
    return result


def _check(files: Sequence[Path], on: Sequence[Path], images: Sequence[Path]) -> None:
    """Raises UsageError for files that are named twice, or of which there are not as many as checkpoints."""
    for what, paths in (("checkpoints", files), ("--on", on)):
        doubled = next((path for path in paths if list(paths).count(path) > 1), None)
        if doubled is not None:
            raise UsageError(f"{what}: {doubled} is named twice.")
    check_images(images, files)
