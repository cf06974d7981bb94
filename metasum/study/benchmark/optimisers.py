"""What an update of all networks costs: the fused optimiser against the usual ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from metasum.study.benchmark.racing import Work, race

WAYS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}


def optimiser_rows(networks: list[nn.Module], *, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """A row for each of PyTorch's ways to take a step of Adam and of SGD with momentum, on all parameters.

    Args:
        networks: they lend shapes and layout; nothing of theirs is changed.
        repeats: rounds.
        device: where they are.

    Returns:
        "optimizer", "way", "seconds" and "ratio" (to the for-loop of the same optimiser) with its range.
    """
    rows = []
    for name, kind in OPTIMISERS.items():
        own = [nn.Parameter(parameter.detach().clone()) for network in networks for parameter in network.parameters()]
        for parameter in own:
            parameter.grad = torch.full_like(parameter, 1e-3)
        ways: dict[str, Work] = {way: kind(own, lr=1e-3, **how).step for way, how in WAYS.items()}
        for way, time in race(ways, repeats=repeats, device=device).items():
            rows.append({"optimizer": name, "way": way, **time.in_figures()})
    return rows
