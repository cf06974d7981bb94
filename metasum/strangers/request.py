"""What somebody asked a sum of finished runs for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metasum.arguments import check_fields
from metasum.baselines.registry import LEARNERS
from metasum.config import flag_of, options_of
from metasum.config.words import Device, Heads
from metasum.errors import UsageError, unknown
from metasum.merging import METHODS
from metasum.merging.method import Method
from metasum.strangers.heads import owners
from metasum.strangers.runs import FinishedRun, same_start

ALWAYS = ("sum", "average", "task-arithmetic")
"""Methods that every sum is measured under, beside the one that was asked for."""


@dataclass(frozen=True, kw_only=True)
class SumRequest:
    """What becomes of the networks, and what the result is measured on.

    Example:
        >>> request = SumRequest(operator="ties", settings={"density": 0.3}, on=("mnist", "svhn"))
    """

    operator: str | None = None
    """Any merging method's name [default: what the runs' learner adds its networks by, as a rule the sum]."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those of the operator that were given, by name."""
    on: Sequence[str] = ()
    """Datasets to measure on [default: the runs' targets]."""
    heads: Heads = "summed"
    """"own": only what is below the networks' last layers is summed, and each dataset is measured with the last layer
    of the run that was trained on it."""
    any_init: bool = False
    """Add runs of different initialisations, too."""
    data_root: Path | str | None = None
    """Where the datasets lie [default: where the runs found them]."""
    download: bool = False
    """Let torchvision fetch a dataset that is not there."""
    device: Device = "auto"
    """"auto", "cpu", "cuda" or "mps"."""

    def __post_init__(self) -> None:
        check_fields(self)

    def datasets(self, runs: Sequence[FinishedRun]) -> list[str]:
        """Names of the datasets to measure on, each once.

        Raises:
            UsageError: each is to have its own head, and there is none, or several, for one of them.
        """
        names = list(dict.fromkeys(self.on or [run.target for run in runs]))
        if self.heads == "own":
            owners(runs, names)
        return names

    def name_for(self, runs: Sequence[FinishedRun]) -> str:
        """What the result's folder is called unless it is told."""
        ending = "-own-heads" if self.heads == "own" else ""
        return f"{'+'.join(run.target for run in runs)}-{self.operator_for(runs)}{ending}"

    def operator_for(self, runs: Sequence[FinishedRun]) -> str:
        """The operator, or the one that all the runs' learners add what they have trained by."""
        learners = [LEARNERS.get(run.plan.learner) for run in runs]
        own = {None if each is None or each.endpoints else each.method for each in learners}
        if self.operator is not None:
            return self.operator
        return (own.pop() if len(own) == 1 else None) or "sum"

    def methods(self, runs: Sequence[FinishedRun]) -> dict[str, Method]:
        """The methods that the runs' networks are merged by, the operator first.

        Raises:
            UsageError: the operator is unknown, makes no sum, does not merge so many networks, or needs one
                initialisation where the runs have several; or a setting was given that none of the methods reads.
        """
        shared, operator = same_start(runs), self.operator_for(runs)
        if METHODS.named(operator).needs_base and not shared:
            raise UsageError(
                f"--operator {operator} works on differences from one initialisation; these runs have several."
            )
        kinds = {name: METHODS[name] for name in (operator, *ALWAYS) if shared or not METHODS[name].needs_base}
        self._check_read(kinds)
        methods = {}
        for name, kind in kinds.items():
            own = {leaf.name for leaf in options_of(kind.Config)} & set(self.settings)
            methods[name] = kind(seed=runs[0].plan.seed, **{setting: self.settings[setting] for setting in own})
            methods[name].check_one_network()
            methods[name].check(len(runs))
            if self.heads == "own" and (reason := kind.against_own_heads()) is not None:
                raise UsageError(f"--heads own: {name} {reason}.")
        return methods

    def _check_read(self, kinds: Mapping[str, type[Method]]) -> None:
        """Raises UsageError for a setting that none of these methods reads; the first is the operator."""
        read = {leaf.name for kind in kinds.values() for leaf in options_of(kind.Config)}
        known = {leaf.name for kind in METHODS.values() for leaf in options_of(kind.Config)}
        for name in self.settings:
            if name not in known:
                raise unknown("setting of a merging method", name, known)
            if name not in read:
                raise UsageError(f"{flag_of(name)} says nothing to --operator {next(iter(kinds))}.")
