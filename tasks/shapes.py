"""What arrays a dataset may come in: sizes, names and their type. PyTorch is not needed to say so."""

from __future__ import annotations

from typing import Any, TypeAlias

SIZE = 32  # of what networks see, unless they are asked to see more
LARGEST = 224
MOST_CHANNELS = 16
KEYS = ("x_train", "y_train", "x_test", "y_test")

Arrays: TypeAlias = tuple[tuple[Any, Any], tuple[Any, Any]]
"""((x_train, y_train), (x_test, y_test)): images uint8 `[N, H, W]` or `[N, H, W, C]`, labels `[N]`, 0 to K-1.

H and W are at most 224, C at most 16."""
