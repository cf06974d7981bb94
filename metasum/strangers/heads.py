"""Which heads networks of finished runs keep for themselves, where only what is below them is summed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from metasum.baselines.registry import LEARNERS
from metasum.errors import UsageError
from metasum.networks.heads import head_of
from metasum.run.plan import Plan
from metasum.weights.batches import device_of

if TYPE_CHECKING:
    from metasum.strangers.runs import FinishedRun


def kept_head(network: nn.Module, plan: Plan, folder: Path) -> frozenset[str]:
    """Names of the parameters and buffers of the head that a finished run's network keeps for itself.

    Raises:
        ArchitectureError: it cannot be told which layer it is; see `head_of`.
        UsageError: networks of the run's learner have no such head, see `Learner.against_own_heads`.
    """
    learner = LEARNERS.get(plan.learner)  # None: of a plug-in that is not loaded here
    reason = None if learner is None else learner.against_own_heads()
    if reason is not None:
        raise UsageError(f"--heads own: learner {plan.learner!r} of {folder} {reason}.")
    size, dtype = plan.network.image_size, next(network.parameters()).dtype
    return head_of(network, torch.zeros(2, plan.data.in_channels, size, size, device=device_of(network), dtype=dtype))


def owners(runs: Sequence[FinishedRun], datasets: Iterable[str]) -> dict[str, int]:
    """Whose head counts on each dataset: the index of the run that was trained on it.

    Raises:
        UsageError: no run was trained on one of them, or several were.
    """
    found = {}
    for name in datasets:
        own = [index for index, run in enumerate(runs) if run.target == name]
        if not own:
            raise UsageError(f"--heads own: no run was trained on {name!r}, so that there is no head for it.")
        if len(own) > 1:
            told = " and ".join(str(runs[index].folder) for index in own)
            raise UsageError(f"--heads own: {told} were all trained on {name!r}, and one head counts there; add one.")
        found[name] = own[0]
    return found
