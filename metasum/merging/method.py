"""What a method of merging is: an object made of its own settings, which says what it needs of the networks.

No torch here, nor at the top of any module with a method in it: listings and `--help` read their facts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from metasum.config import Checked, NoSettings, option
from metasum.errors import UsageError, unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig(Checked):
    """Of a method that looks at images."""

    merging_images: int = option(
        1024, "Images of each dataset that methods of merging look at, at most.", unit="images", minimum=1
    )


class Method:
    """A way of merging two or more finished networks of one architecture.

    Args:
        config: its settings, or these as keywords.
        seed: of what it draws at random, where it does.
        layers: pairs of a pattern of parameter names, as the shell's, and a value of the layered setting for the
            parameters that match; the last match counts.

    Example:
        >>> TIES(density=0.3, layers=[("*.bias", 1.0)])

    Raises:
        UsageError: a setting that the method does not have, or a value that it does not take.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for a list."""
    paper: ClassVar[str] = ""
    Config: ClassVar[type] = NoSettings
    """A frozen dataclass of the settings that it reads; their names are flags."""
    candidates: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values of settings among which a comparison chooses on validation images; all combinations are tried."""

    fewest: ClassVar[int] = 2
    exactly: ClassVar[int | None] = None
    """The only number of networks that it merges."""
    needs_base: ClassVar[bool] = False
    """Whether it works on differences from a common start θ_0."""
    takes_base: ClassVar[bool] = False
    """Whether it works on differences where a base is given beside files or parameters, and else on the weights."""
    needs_images: ClassVar[bool] = False
    """Whether it looks at unlabelled images of each network's dataset."""
    needs_networks: ClassVar[bool] = False
    """Whether it needs modules, not only their tensors by name."""
    merges_files: ClassVar[bool] = False
    """Whether it merges files without their network (see `on_files`)."""
    knows_task: ClassVar[bool] = False
    """Whether it makes a network for each task, which is no merge: of an input, the task has to be known."""
    whole_tensors: ClassVar[bool] = False
    """Whether each tensor has to be whole when it is merged; else its arithmetic is entry by entry."""
    random: ClassVar[bool] = False
    """Whether it draws at random."""
    layered: ClassVar[str | None] = None
    """The setting that may differ from layer to layer."""
    keeps_functions: ClassVar[bool] = False
    """Whether networks without a channel in common, each with its own statistics, compute in it what they did alone."""
    compared: ClassVar[bool] = True
    """Whether there is a learner of its name, which trains networks alone and merges them so."""
    any_start: ClassVar[bool] = False
    """Whether it is made for networks of several initialisations, whose channels it brings together."""
    two_starts: ClassVar[bool] = False
    """Whether that learner is compared on networks of two initialisations, too."""

    def __init__(
        self, config: Any = None, *, seed: int = 0, layers: Sequence[tuple[str, Any]] = (), **settings: Any
    ) -> None:
        names = [field.name for field in dataclasses.fields(self.Config)]
        for name in settings:
            if name not in names:
                raise unknown(f"setting of {self.name}", name, names, more="" if names else "It leaves nothing open.")
        self.config = self.Config(**settings) if config is None else config
        self.seed, self.layers = seed, tuple(layers)
        if self.layers and self.layered is None:
            raise UsageError(f"--layers says nothing to {self.name}: no setting of it differs from layer to layer.")
        for _, value in self.layers:
            dataclasses.replace(self.config, **{str(self.layered): value})  # whose checks hold for the value, too

    @classmethod
    def no_merge(cls) -> str | None:
        """What its rows in tables are, where they are no merge; None where they are."""
        return "task known" if cls.knows_task else None

    @classmethod
    def group(cls) -> str:
        """Which kind of method it is, by what it can be used for: see `metasum.merging.GROUPS`."""
        if cls.no_merge() is not None:
            return "anchors"
        if cls.any_start:
            return "matching"
        return "images" if cls.needs_images else "one-start"

    @classmethod
    def needs(cls) -> list[str]:
        """In words, what it needs of networks beside their tensors."""
        facts = {
            f"{cls.exactly} networks": cls.exactly is not None,
            "a base": cls.needs_base,
            "images": cls.needs_images,
            "the networks": cls.needs_networks,
            "whole tensors": cls.whole_tensors,
            "the task of each input": cls.knows_task,
        }
        return [words for words, holds in facts.items() if holds]

    def on_files(self) -> Method:
        """What is done to files of which there is no network: the method itself, where it is one of tensors."""
        return self

    @classmethod
    def against_own_heads(cls) -> str | None:
        """What keeps networks that it merges from keeping a head each, a sentence's rest; None if nothing."""
        return None

    def setting(self, parameter: str) -> Any:
        """The layered setting of one parameter."""
        found = [value for pattern, value in self.layers if fnmatchcase(parameter, pattern)]
        return found[-1] if found else getattr(self.config, str(self.layered))

    def check(self, count: int, *, what: str = "networks") -> None:
        """Raises UsageError where it cannot merge so many. `what`: what to call them."""
        if self.exactly is not None and count != self.exactly:
            raise UsageError(f"{self.name} takes {self.exactly} {what}, not {count}.")
        if count < self.fewest:
            raise UsageError(
                f"{self.name} takes at least {self.fewest} {what if self.fewest > 1 else what[:-1]}, not {count}."
            )

    def check_one_network(self) -> None:
        """Raises UsageError where it makes a network for each task, and one is wanted."""
        if self.knows_task:
            raise UsageError(
                f"{self.name} makes a network for each task, and no merged one: metasum.merge gives them in Python, "
                "and `metasum experiment` and `compare-baselines` measure them."
            )

    def check_layers(self, parameters: Collection[str]) -> None:
        """Raises UsageError for a pattern in `layers` that matches no parameter."""
        for pattern, _ in self.layers:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                raise UsageError(f"--layers {pattern}: no parameter is called so, as {next(iter(parameters), '')} is.")
