"""Everything MetaSum is compared with. Imported as `metasum.baselines`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasum.baselines.registry import LearnerEntry, learner_named, register, register_method

__all__ = ["LearnerEntry", "learner_named", "register", "register_method"]


def __getattr__(name: str) -> Any:  # the registry imports torch, which a list of methods does not need
    if name in __all__:
        return getattr(import_module("metasum.baselines.registry"), name)
    raise AttributeError(f"module 'metasum.baselines' has no attribute {name!r}")
