"""learn2learn and higher, imported without their noise."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from typing import Any


def learn2learn() -> Any:
    """The learn2learn package. It pulls in gym, which prints a farewell notice where gym-notices is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("gym_notices.notices").notices.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("learn2learn")


def higher() -> Any:
    """The higher package, whose sources raise SyntaxWarnings the first time they are compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("higher")
