"""Task pairs: which network is to be added to which, and settings that suit them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from metasum.arguments import check_fields
from metasum.config import Checked, option
from metasum.files import check_folder_name


@dataclass(frozen=True)
class Recipe(Checked):
    """Defaults of a pair; any flag overrides them. Chosen on validation images, never on test images."""

    width: float = option(0.25, "Factor on the network's channel counts.", above=0)
    steps: int = option(600, "Updates.", minimum=1)
    batch_size: int = option(64, "Images of each dataset in a step.", minimum=2)
    learning_rate: float = option(5e-4, "Step size at its highest.", above=0)


@dataclass(frozen=True)
class TaskPair:
    """A target and a support dataset by name, with their recipe."""

    target: str
    support: str
    recipe: Recipe = Recipe()
    summary: str = ""
    source: str = "Python"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in (self.target, self.support):
            check_folder_name("a dataset called", name)

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
