"""What an update of all networks costs: the fused optimiser against the usual ones."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from metasum.benchmark.conditions import Conditions
from metasum.benchmark.racing import Work, race
from metasum.results.benchmark import OptimiserRow

WAYS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}


def optimiser_rows(conditions: Conditions) -> list[OptimiserRow]:
    """A row for each of PyTorch's ways to take a step of Adam and of SGD with momentum, on all networks' parameters.

    Ratios are to the for-loop of the same optimiser.
    """
    networks = [conditions.network() for _ in conditions.batches]
    rows = []
    for name, kind in OPTIMISERS.items():
        own = [nn.Parameter(parameter.detach().clone()) for network in networks for parameter in network.parameters()]
        for parameter in own:
            parameter.grad = torch.full_like(parameter, 1e-3)
        ways: dict[str, Work] = {way: kind(own, lr=1e-3, **how).step for way, how in WAYS.items()}
        for way, time in race(ways, repeats=conditions.repeats, device=conditions.device).items():
            rows.append(OptimiserRow(conditions.setting, *time.in_figures(), optimizer=name, way=way))
    return rows
