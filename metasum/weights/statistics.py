"""Whose batch-norm statistics the summed network uses.

Running means and variances are not parameters: they are never added. A sum needs its own, and this is where most
attempts at adding networks break.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from metasum.errors import UsageError, unknown
from metasum.types import Buffers
from metasum.weights.parameters import buffers_of

RECALIBRATE = "recalibrate"
"""The policy that takes statistics from nobody: they are computed on the images at hand."""


def normalisers(network: nn.Module) -> list[_NormBase]:
    """The modules of `network` that normalise by running statistics in eval mode.

    They are recognised by use: batch norms read the statistics that they have, whatever `track_running_stats` was set
    to since; instance norms do only where it is set.
    """
    modules = [m for m in network.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    return [m for m in modules if m.track_running_stats or not isinstance(m, _InstanceNorm)]


@contextmanager
def _accumulating(modules: list[_NormBase]) -> Iterator[None]:
    """Within the block these modules average the statistics of every batch they see, each with equal weight."""
    before = [(module.momentum, module.training, module.track_running_stats) for module in modules]
    hooks = []
    try:
        for module in modules:
            module.track_running_stats = True  # PyTorch resets and updates statistics only where it is set
            module.reset_running_stats()
            module.momentum = None  # PyTorch's spelling of a cumulative average, for batch norms
            if isinstance(module, _InstanceNorm):
                hooks.append(module.register_forward_pre_hook(_cumulative()))
            module.train()
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, (momentum, training, tracking) in zip(modules, before, strict=True):
            module.momentum, module.track_running_stats = momentum, tracking
            module.train(training)


def _cumulative() -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that gives an instance norm's n-th call the momentum 1/n (None is 0 to these: statistics would stay)."""
    calls = itertools.count(1)

    def before_forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        module.momentum = 1 / next(calls)  # type: ignore[assignment]

    return before_forward


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Recomputes the running statistics of `network` from unlabelled images, in place, and returns it in eval mode.

    Reset, cumulative average, dropout off (Izmailov et al. 2018, arXiv:1803.05407, section 3.2, for averaged
    weights). A network that keeps no running statistics reads no image. No gradient is recorded.

    Args:
        network: whose buffers are rewritten; its parameters are untouched.
        batches: images `[N, C, H, W]` as the network is trained on.

    Example:
        >>> merged = recalibrate(model, [images])  # or any loader of images
        >>> logits = merged(images)

    Raises:
        UsageError: there was no batch to read.
    """
    network.eval()
    modules = normalisers(network)
    if not modules:
        return network
    seen = 0
    with torch.no_grad(), _accumulating(modules):
        for images in batches:
            network(images)
            seen += 1
    if not seen:
        raise UsageError("recalibrating batch-norm statistics needs at least one batch of images.")
    return network


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
