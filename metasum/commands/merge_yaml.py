"""`metasum merge CONFIG.yml`: the file says what flags would."""

from __future__ import annotations

from typing import Any

from metasum.commands.bars import bar
from metasum.config import flag_of
from metasum.errors import UsageError
from metasum.merging.disk.config import MergeConfig
from metasum.results.merge import MergeResult

YAML = (".yml", ".yaml")
"""Endings of a METHOD that is a file."""


def check_yaml(values: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises UsageError for what says nothing beside a YAML file, which says it itself."""
    if values["files"]:
        raise UsageError(f"{values['method']} names its models itself; leave {values['files'][0]} out.")
    said = [name for name in ("base", "layers", "model", "images") if values[name]]
    for name in (*said, *sorted(given.keys() - {"threads"})):
        raise UsageError(f"{flag_of(name)} says nothing beside {values['method']}, which says how to merge.")


def merge_yaml(settings: MergeConfig, values: dict[str, Any]) -> MergeResult:
    """Merges as the command's flags and their file say."""
    from metasum.merging.mergekit.merging import merge_config
    from metasum.training.interruption import Interruption

    with Interruption() as interruption, bar(values["method"], quiet=values["quiet"]) as progress:
        return merge_config(
            values["method"],
            values["output"],
            seed=values["seed"] or 0,
            threads=settings.threads,
            overwrite=values["overwrite"],
            progress=progress,
            cancelled=lambda: interruption.requested,
        )
