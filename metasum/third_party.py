"""learn2learn and higher: whether they are here, imported without their noise and without what is never used of them.

learn2learn is no dependency of the wheel, since its 0.2.0 only builds with an option that no wheel can carry.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

from metasum.errors import UsageError

INSTALLING = 'python -m pip install --no-deps --config-settings "--build-option=build_ext" learn2learn==0.2.0 tqdm'
"""Installs learn2learn: with the build option, and with what is used of its dependencies and metasum does not bring.

All of them are forty packages more, one of which holds numpy below 2.
"""
LATER = ("learn2learn.data", "learn2learn.gym", "learn2learn.text", "learn2learn.vision")
"""Parts that learn2learn's own first lines import, with gym and all of torchvision: more seconds than PyTorch takes."""


def has_learn2learn() -> bool:
    """Whether learn2learn is installed; nothing is imported."""
    return importlib.util.find_spec("learn2learn") is not None


def learn2learn() -> Any:
    """What ``import learn2learn`` gives; parts of it are loaded where they are first used.

    Raises:
        UsageError: it is not installed; the sentence has the line that installs it.
    """
    if not has_learn2learn():
        raise UsageError(f"this needs learn2learn, which is not installed: {INSTALLING}")
    if "learn2learn" not in sys.modules:
        sys.modules.update({name: _loaded_when_used(name) for name in LATER})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("learn2learn")


def higher() -> Any:
    """The higher package, whose sources raise SyntaxWarnings the first time they are compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("higher")


def _loaded_when_used(name: str) -> ModuleType:
    """A module in the place of ``name``, which is imported where anything in it is first asked for."""
    stand_in = ModuleType(name)

    def first_use(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":  # inspect asks every module for __file__
            raise AttributeError(f"{name} has no {attribute} before it is used")
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)  # which makes it the package's attribute, too
        return getattr(sys.modules[name], attribute)

    stand_in.__getattr__ = first_use  # type: ignore[method-assign]  # PEP 562
    return stand_in
