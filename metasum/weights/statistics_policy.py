"""Whose batch-norm statistics a sum has: recalibrated ones, one network's, or every network's own side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from metasum.errors import UsageError, unknown
from metasum.types import Buffers
from metasum.weights.parameters import buffers_of
from metasum.weights.statistics import normalisers, recalibrate

RECALIBRATE = "recalibrate"
"""The policy that takes statistics from nobody: they are computed on the images at hand."""


def side_by_side(networks: Sequence[nn.Module]) -> dict[str, Tensor] | None:
    """Buffers with every network's own running statistics, for the sum of networks that have no channel in common.

    A channel of such a sum is one network's, and is normalised as it was there. No image is read.

    Args:
        networks: of one architecture; they are left alone.

    Returns:
        Their buffers by name, added up; None where two networks use one channel, or none keeps statistics.
    """
    if not normalisers(networks[0]):
        return None
    for modules in zip(*map(normalisers, networks), strict=True):
        used = torch.stack([_used(module) for module in modules])
        if (used.sum(dim=0) > 1).any():
            return None
    kept = [dict(network.named_buffers()) for network in networks]
    statistics = ("running_mean", "running_var")
    return {
        name: torch.stack([own[name] for own in kept]).sum(dim=0) if name.endswith(statistics) else buffer.clone()
        for name, buffer in kept[0].items()
    }


def _used(module: _NormBase) -> Tensor:
    """Which channels a network uses, `[channels]`; those of other slots have a variance and a scale of 0."""
    varies = module.running_var != 0
    return varies if module.weight is None else varies | (module.weight != 0)


def sources_of(
    networks: Mapping[str, nn.Module], *, learned: Buffers | None, own: Buffers | None
) -> dict[str, Buffers]:
    """Whose statistics a sum can have, by the policies that `settle_statistics` takes.

    Args:
        networks: that are added, by name.
        learned: those that the sum kept in training, where it did.
        own: those with which every network computes in the sum what it does alone, where there are such.

    Returns:
        The networks' buffers under their names, and "learned" and "own" where there are any.
    """
    sources: dict[str, Buffers] = {name: buffers_of(network) for name, network in networks.items()}
    if learned is not None:
        sources["learned"] = learned
    return sources if own is None else {**sources, "own": own}


def settled_policy(policy: str | None, sources: Mapping[str, Buffers]) -> str:
    """The policy, or where there is none: "own" where the sum can have them, else "recalibrate".

    Raises:
        UsageError: an unknown one; or "own" where the sum cannot have them.
    """
    if policy is None:
        return "own" if "own" in sources else RECALIBRATE
    if policy == "own" and policy not in sources:
        raise UsageError(
            "--statistics own: only a plain sum of networks with batch norm and without a channel in common keeps "
            "every network's own, as of learner slots; take --statistics recalibrate."
        )
    if policy != RECALIBRATE and policy not in sources:
        raise unknown("statistics policy", policy, [RECALIBRATE, *sources])
    return policy


def settle_statistics(
    network: nn.Module, policy: str | None, images: Iterable[Tensor], sources: Mapping[str, Buffers]
) -> nn.Module:
    """Gives a sum the statistics that `policy` says, in place, and returns it in eval mode.

    Args:
        network: a sum with nobody's statistics yet.
        policy: "recalibrate", or a key of `sources`, whose buffers are copied [None: see `settled_policy`].
        images: unlabelled batches `[N, C, H, W]`, read for "recalibrate" only.
        sources: buffers by whose they are; see `sources_of`.

    Raises:
        UsageError: a policy that `settled_policy` refuses; or "learned" where training never ran the sum.
    """
    policy = settled_policy(policy, sources)
    if policy == RECALIBRATE:
        return recalibrate(network, images)
    buffers = sources[policy]
    counters = [buffer for name, buffer in buffers.items() if name.endswith("num_batches_tracked")]
    if policy == "learned" and normalisers(network) and not any(int(counter) > 0 for counter in counters):
        raise UsageError("there are no learned statistics: training never ran the summed network.")
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    return network.eval()
