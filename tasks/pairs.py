"""Task pairs: which network is to be added to which, and settings that suit them."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Defaults of a pair; any flag overrides them. Chosen on validation images, never on test images."""

    width: float = 0.25
    """Factor on the network's channel counts."""
    steps: int = 600
    batch_size: int = 64
    """Images of each dataset in a step."""
    learning_rate: float = 5e-4


@dataclass(frozen=True)
class TaskPair:
    """A target and a support dataset by name, with their recipe."""

    target: str
    support: str
    recipe: Recipe = Recipe()
    summary: str = ""
    source: str = "Python"

    @property
    def name(self) -> str:
        return f"{self.target}+{self.support}"


EMBEDDED = Recipe(width=0.125, steps=200, learning_rate=2e-3)
BUILT_IN_PAIRS = (
    TaskPair("digits", "letters", EMBEDDED, "the embedded pair, what runs with no options", "metasum"),
    TaskPair(
        "printed-digits",
        "letters",
        replace(EMBEDDED, steps=800),
        "step 2 offline: colour digits stand in for SVHN",
        "metasum",
    ),
    TaskPair("mnist", "cifar10", Recipe(), "step 1 of the experiment", "metasum"),
    TaskPair("svhn", "cifar10", Recipe(), "step 2 of the experiment", "metasum"),
)
