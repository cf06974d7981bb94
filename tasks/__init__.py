"""What is trained on. Imported as `metasum.tasks`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a name `as` itself is public
    from metasum.tasks.distribution import TaskDistribution as TaskDistribution
    from metasum.tasks.distribution import Variations as Variations
    from metasum.tasks.loading import load_dataset as load_dataset
    from metasum.tasks.pairs import Recipe as Recipe
    from metasum.tasks.pairs import TaskPair as TaskPair
    from metasum.tasks.registry import register_dataset as register_dataset
    from metasum.tasks.registry import register_pair as register_pair
    from metasum.tasks.sampler import PairSampler as PairSampler
    from metasum.tasks.task import ImageTask as ImageTask

# Public names and where they live; each is imported when it is first used, so that listings need no PyTorch.
_HOMES = {
    "ImageTask": "task",
    "PairSampler": "sampler",
    "Recipe": "pairs",
    "TaskDistribution": "distribution",
    "TaskPair": "pairs",
    "Variations": "distribution",
    "load_dataset": "loading",
    "register_dataset": "registry",
    "register_pair": "registry",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
