"""From the names and groups that somebody asked a study for to its learners."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from metasum.baselines.registry import ALL, ANCHORS, GROUPS, LEARNERS, TRAINED
from metasum.errors import UsageError


def learners_asked(words: Sequence[str] | None, *, but: Callable[[str], str | None]) -> tuple[str, ...]:
    """Names of learners and of what stands beside them, each once, in the order in which they were asked for.

    Args:
        words: names, and of groups (`metasum.baselines.registry.GROUPS`, or "all"), each of which stands for all of
            its own that suit the study [default: all].
        but: what keeps one out of the study, in a sentence; None if nothing. It raises UsageError for an unknown name.

    Raises:
        UsageError: one that is named does not suit the study, or is named twice.
    """
    found: dict[str, None] = {}
    for place, word in enumerate(words if words is not None else (ALL,)):
        if word in (*GROUPS, ALL):
            own = (name for name, group in groups().items() if word in (group, ALL))
            found |= dict.fromkeys(name for name in own if but(name) is None)
            continue
        reason = but(word)
        if word in (words or ())[:place]:
            reason = f"--learners names {word!r} twice."
        if reason is not None:
            raise UsageError(reason)
        found[word] = None
    return tuple(found)


def groups() -> Mapping[str, str]:
    """The group of every learner, and of what stands beside them, by name."""
    return {name: entry.group or TRAINED for known in (LEARNERS, ANCHORS) for name, entry in known.entries.items()}
