"""What a run is: its settings, data, initialisation and versions, as config.json holds them."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from metasum import __version__
from metasum.baselines.registry import LEARNERS
from metasum.config import Option, options_of
from metasum.errors import CheckpointError, UsageError
from metasum.files import read_json, reading
from metasum.learners.learner import Learner
from metasum.results.surroundings import DatasetFacts
from metasum.run.plan import Plan, fill
from metasum.run.request import COMMON, SECTIONS
from metasum.training.layout import CHANNELS_LAST, CONTIGUOUS
from metasum.training.layout_trial import AUTO
from metasum.training.run_folder import RunFolder
from metasum.types import Dataset

# they change no weight that is not checked
MAY_DIFFER_ON_RESUME = {"data_root", "device", "devices", "num_nodes", "fsdp", "monitor", "tracking", "source", "init"}
MAY_DIFFER_ON_RESUME |= {"pool", "memory_format"}
PACKAGES = ("torch", "torchvision", "learn2learn", "higher", "lightning-fabric", "numpy")


FORMAT = 2
"""Of config.json; `plan_of` reads older ones, too."""


def describe(settings: Mapping[str, Any], data: Mapping[str, Any], **facts: str) -> dict[str, Any]:
    """What config.json holds: "format", "settings", "data", "versions", "machine", and further facts.

    Args:
        settings: of the run.
        data: what `describe_dataset` says of each of its datasets.
        facts: checksums of what it starts from; "layout", of its kernels.
    """
    return {"format": FORMAT, "settings": dict(settings), "data": dict(data), **facts, **describe_surroundings()}


def layout_before(path: Path) -> str | None:
    """The layout that the kernels of the run at `path` had when it began; None where there is no run."""
    with contextlib.suppress(CheckpointError):  # who opens the run says what is wrong with it
        if (path / "config.json").is_file():
            told = read_json(path / "config.json").get("layout", CHANNELS_LAST)  # once nothing else was tried
            return CONTIGUOUS if told == CONTIGUOUS else CHANNELS_LAST
    return None


def describe_dataset(dataset: Dataset) -> DatasetFacts:
    """Name, source, checksum, image counts and classes."""
    return DatasetFacts(
        dataset.name, dataset.source, dataset.checksum, len(dataset.train), len(dataset.test), dataset.num_classes
    )


def describe_surroundings() -> dict[str, Any]:
    """What numbers depend on beside settings and data: "versions", "machine"."""
    return {
        "versions": {
            "python": platform.python_version(),
            "metasum": __version__,
            **{name: _version(name) for name in PACKAGES},
        },
        "machine": {"system": platform.platform(), "threads": torch.get_num_threads()},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def plan_of(description: Mapping[str, Any], *, any_learner: bool = False) -> Plan:
    """The plan in a run's config.json, of this format or an older one.

    Args:
        description: what config.json holds.
        any_learner: also read the plan of a learner that is not registered, such as a plug-in's; see `Plan.from_json`.

    Raises:
        CheckpointError: these are no settings of a run, or of a later version.
    """
    number = description.get("format", 1)
    if number not in (1, FORMAT):
        raise CheckpointError(f"these settings are of format {number!r}, of a later version of metasum.")
    settings = _from_format_1(description.get("settings")) if number == 1 else description.get("settings", {})
    return Plan.from_json(_with_auto(settings), any_learner=any_learner)


def _with_auto(settings: Any) -> Any:
    """Earlier files have null for the layout that nobody chose."""
    moving = settings.get("optimisation") if isinstance(settings, Mapping) else None
    if not isinstance(moving, Mapping) or moving.get("memory_format", AUTO) is not None:
        return settings
    return {**settings, "optimisation": {**moving, "memory_format": AUTO}}


def _of_a_run(description: Mapping[str, Any]) -> dict[str, Any]:
    return plan_of(description).to_json()


def reopen(
    path: Path,
    description: dict[str, Any],
    *,
    completed: Callable[[Mapping[str, Any]], dict[str, Any]] = _of_a_run,
) -> RunFolder:
    """The run folder at `path`, to continue it; nothing in it changes.

    Args:
        path: where it should be.
        description: of the run as it would be made now.
        completed: from what config.json holds to its settings in today's form [default: those of a `Plan`].

    Raises:
        CheckpointError: there is no run, or its config.json is damaged or foreign.
        UsageError: it has other settings, data or initialisation than `description`; the first difference is named.
            Where to run, where the data lies and how often to look up may differ.
    """
    if not path.exists():
        raise CheckpointError(f"there is no run to resume in {path}.")
    run = RunFolder.open(path)
    before = run.read_json("config.json")
    with reading(path / "config.json"):
        before["settings"] = completed(before)
    for section in ("settings", "data", "initial_checksum", "start_checksum", "pool_checksums"):
        difference = _first_difference(section, before.get(section), description.get(section))
        if difference:
            raise UsageError(
                f"cannot resume {path} with other settings: {difference}. Take another --out, or delete that folder."
            )
    return run


def _first_difference(name: str, before: Any, now: Any) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        found = (
            _first_difference(key, before.get(key), value)
            for key, value in now.items()
            if key not in MAY_DIFFER_ON_RESUME
        )
        return next((difference for difference in found if difference), None)
    if isinstance(now, tuple) and isinstance(before, list):
        before = tuple(before)
    return None if before == now else f"{name} was {before}, now {now}"


def _from_format_1(settings: Any) -> dict[str, Any]:
    """Format 1 had sections for the settings of all learners, None for what was left open, and lists as text.

    Raises:
        CheckpointError: these are no settings of a run.
    """
    try:
        sections = [section for section in settings.values() if isinstance(section, Mapping)]
        old = {name: value for section in sections for name, value in section.items()}
        old |= {"learner": settings["learner"], "seed": settings["seed"]}
        learner = LEARNERS.get(old["learner"], Learner)  # of a plug-in that is not loaded here: what all have
        own = {leaf.name: leaf for leaf in options_of(learner.Config)}
        known = {
            name: _in_todays_form(leaf, old[name])
            for name, leaf in {**COMMON, **own}.items()
            if name in old and (old[name] is not None or leaf.optional)
        }
    except (AttributeError, KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"these are not the settings of a metasum run: {error}.") from error
    values = fill(learner, known)

    def section(leaves: Mapping[str, Option]) -> dict[str, Any]:
        return {name: values[name] for name in leaves if name in values}

    common = {name: section({leaf.name: leaf for leaf in options_of(kind)}) for name, kind in SECTIONS.items()}
    return {"learner": values["learner"], "seed": values["seed"], "own": section(own), **common}


def _in_todays_form(leaf: Option, value: Any) -> Any:
    return leaf.parsed(value) if leaf.many and isinstance(value, str) else value
