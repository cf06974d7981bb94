"""The folder of a merged model: its weights, the configuration of the model it comes from, and what belongs to that."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metasum.errors import CheckpointError, StorageError, UsageError
from metasum.files import NO_LINK, read_json, write_json, write_text
from metasum.locks import lock
from metasum.merging.mergekit.config import Asked
from metasum.weights.tensor_files.header import read_header

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
LOCK = ".lock"
COPIED = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""Endings of files that belong to a model beside its weights: tokenizer, generation settings, code."""
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configurations call the number of layers."""


@contextmanager
def new_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder for the block to fill; it is called `output` when the block ends well, else nothing is left.

    Raises:
        UsageError: `output` is there, and is no merged model that may be replaced.
        StorageError: it could not be written.
    """
    check_folder(output, overwrite=overwrite)
    partial, handle = None, None
    try:
        _remove_leftovers(output)
        partial = _partial(output)
        partial.mkdir()
        handle = os.open(partial / LOCK, os.O_RDWR | os.O_CREAT | NO_LINK)
        lock(handle, wait=True)
        yield partial
        (partial / LOCK).unlink()
        _put(partial, output)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror or error}.") from error
    except StorageError as error:  # of a file in it, which nobody knows by the folder's hidden name
        raise StorageError(str(error).replace(str(partial), str(output))) from error
    finally:
        if handle is not None:
            os.close(handle)
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _partial(output: Path) -> Path:
    return output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")


def _remove_leftovers(output: Path) -> None:
    """Removes the folders that killed processes left half-filled; one that is still being filled is locked."""
    for folder in output.parent.glob(f".{glob.escape(output.name)}.*.partial"):
        with contextlib.suppress(OSError):
            handle = os.open(folder / LOCK, os.O_RDWR | NO_LINK)
            try:
                if lock(handle):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def check_folder(output: Path, *, overwrite: bool) -> None:
    """Raises UsageError where `output` is no place for the folder of a model."""
    if not output.name:
        raise UsageError(f"--output {output}: name a folder that is to be made.")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.")
    if not output.exists() and not output.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"--output {output} is there already; use --overwrite to replace it.")
    if not _is_merged(output):
        raise UsageError(f"--output {output} is no folder that metasum merged, and is not replaced; name another one.")


def _is_merged(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        with (folder / WEIGHTS).open("rb") as file:
            return "merge" in read_header(file, (folder / WEIGHTS).stat().st_size).metadata
    except (OSError, CheckpointError):
        return False


def _put(partial: Path, output: Path) -> None:
    if not output.exists():
        os.rename(partial, output)
        return
    old = _partial(output)
    os.rename(output, old)
    try:
        os.rename(partial, output)
    except OSError:
        os.rename(old, output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_donor(asked: Asked) -> dict[str, Any] | None:
    """The result's configuration: the donor's, with as many layers as there are; None where it has none.

    Raises:
        CheckpointError: a configuration is damaged, or does not say how many layers there are.
    """
    path = asked.donor / CONFIG
    if not os.path.lexists(path):
        return None
    config = read_json(path)
    if asked.dtype != "keep":
        config["dtype" if "dtype" in config else "torch_dtype"] = asked.dtype
    if asked.slices[0].sources[0].layers is None:
        return config
    inner = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    key = next((key for key in DEPTHS if key in inner), None)
    if key is None:
        raise CheckpointError(f"{path} does not say how many layers there are, as num_hidden_layers does.")
    inner[key] = sum(part.sources[0].depth for part in asked.slices)
    if isinstance(inner.get("layer_types"), list):
        inner["layer_types"] = list(_layer_types(asked))
    return config


def _layer_types(asked: Asked) -> Iterator[Any]:
    """What each layer is called in the configuration of the model that it is from."""
    for part in asked.slices:
        source = part.sources[0]
        path = source.model / CONFIG
        config = read_json(path)
        inner = config["text_config"] if isinstance(config.get("text_config"), dict) else config
        types, (first, end) = inner.get("layer_types"), source.layers or (0, 0)
        if not isinstance(types, list) or len(types) < end:
            raise CheckpointError(f"{path} has no layer_types for {end} layers, as the other models' have.")
        yield from types[first:end]


def fill(folder: Path, asked: Asked, config: dict[str, Any] | None) -> None:
    """Writes all but the weights: the configuration, the donor's other files, and the file that was asked."""
    donor = asked.donor
    for file in sorted(donor.iterdir()) if donor.is_dir() else ():
        belongs = file.suffix in COPIED or file.stem in LICENCES
        if belongs and not file.is_dir() and ".index." not in file.name and not file.name.startswith("."):
            try:
                content = file.read_bytes()
            except OSError as error:
                raise CheckpointError(f"cannot read {file}: {error.strerror or error}.") from error
            (folder / file.name).write_bytes(content)
    if config is not None:
        write_json(folder / CONFIG, config)
    write_text(folder / "mergekit_config.yml", asked.text)
    with contextlib.suppress(OSError):
        folder.chmod(donor.stat().st_mode & 0o777 if donor.is_dir() else 0o755)
