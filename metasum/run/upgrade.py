"""Settings that earlier versions of metasum wrote, in today's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metasum.baselines.registry import LEARNERS
from metasum.config import Option, options_of
from metasum.errors import CheckpointError, UsageError
from metasum.learners.learner import Learner
from metasum.run.plan import fill
from metasum.run.request import COMMON, SECTIONS


def upgraded(description: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds, in this version's format.

    Raises:
        CheckpointError: it is of a later version, or no run's.
    """
    found = dict(description)
    number = found.get("format", 1)
    if number == 1:
        return {**found, "format": 2, "settings": _from_format_1(found.get("settings"))}
    if number != 2:
        raise CheckpointError(f"these settings are of format {number!r}, of a later version of metasum.")
    return found


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
