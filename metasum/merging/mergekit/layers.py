"""Which layer a tensor belongs to: the first number between dots in its name, as in `model.layers.12.mlp.up.weight`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")
BEGINNING = re.compile(r"emb|wte|wpe", re.IGNORECASE)
NOT_BEGINNING = re.compile(r"embed_out|unembed", re.IGNORECASE)


class Layer(NamedTuple):
    """Where a tensor lies in a list of layers."""

    stack: str
    """What stands before the number: "model.layers"."""
    number: int


def layer_of(name: str) -> Layer | None:
    """The layer of the tensor called so; None where there is no number in its name."""
    match = NUMBER.search(name)
    if match is None:
        return None
    return Layer(name[: match.start()], int(match[1]))


def moved(name: str, number: int) -> str:
    """The name of the same tensor of another layer."""
    match = NUMBER.search(name)
    return name if match is None else f"{name[: match.start(1)]}{number}{name[match.end(1) :]}"


def depths(names: Iterable[str]) -> dict[str, int]:
    """For each list of layers, how many it has."""
    found: dict[str, int] = {}
    for layer in map(layer_of, names):
        if layer:
            found[layer.stack] = max(found.get(layer.stack, 0), layer.number + 1)
    return found


def is_beginning(name: str) -> bool:
    """Whether a tensor outside the layers stands before them (an embedding); else behind (a norm, the head)."""
    return BEGINNING.search(name) is not None and NOT_BEGINNING.search(name) is None
