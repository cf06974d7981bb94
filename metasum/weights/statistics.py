"""Whose batch-norm statistics the summed network uses.

Running means and variances are not parameters: they are never added. A sum needs its own, and this is where most
attempts at adding networks break.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from metasum.errors import DivergenceError, UsageError, told_of, unknown
from metasum.types import Buffers
from metasum.weights.batches import Batches, Forward, device_of
from metasum.weights.calling import run
from metasum.weights.parameters import buffers_of
from metasum.weights.randomness import same_randomness

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
def _accumulating(modules: list[_NormBase]) -> Iterator[_Weight]:
    """Within the block these modules average the statistics of every batch they see, each weighted by its size."""
    before = [(module.momentum, module.training, module.track_running_stats) for module in modules]
    hooks, weight = [], _Weight()
    try:
        for module in modules:
            module.track_running_stats = True  # PyTorch resets and updates statistics only where it is set
            module.reset_running_stats()
            hooks.append(module.register_forward_pre_hook(weight.before_forward))
            module.train()
        yield weight
    finally:
        for hook in hooks:
            hook.remove()
        for module, (momentum, training, tracking) in zip(modules, before, strict=True):
            module.momentum, module.track_running_stats = momentum, tracking
            module.train(training)


@contextmanager
def _all_or_none(modules: list[_NormBase]) -> Iterator[None]:
    """Puts the statistics back as they were where the block fails."""
    buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    except BaseException:
        for buffer, own in zip(buffers, before, strict=True):
            buffer.copy_(own)
        raise


class _Weight:
    """Gives every norm the momentum with which all inputs so far count alike, on each of its calls."""

    def __init__(self) -> None:
        self.size = 1
        """Of the batch at hand."""
        self._seen = Counter[int]()  # by tensor: norms of several networks may share their statistics

    def before_forward(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        key = id(module.running_mean)
        self._seen[key] += self.size
        module.momentum = self.size / self._seen[key]  # type: ignore[assignment]


def recalibrate(network: nn.Module, images: Any, *, forward: Forward | None = None) -> nn.Module:
    """Recomputes the running statistics of `network` from unlabelled images, in place, and returns it in eval mode.

    Reset, cumulative average in which every image counts alike, dropout off (Izmailov et al. 2018, arXiv:1803.05407,
    section 3.2, for averaged weights). A network that keeps no running statistics reads no image. No gradient is
    recorded, and random states are left as they were.

    Args:
        network: whose buffers are rewritten; its parameters are untouched.
        images: as the network is trained on: a DataLoader or another iterable of batches, a tensor `[N, C, H, W]`, a
            dataset. Labels beside them are not looked at (`metasum.weights.batches` says what a batch may be). A last
            batch of one image is left out, since it has no variance.
        forward: from the network and a batch to its answer, where it is not called in the usual way.

    Example:
        >>> merged = recalibrate(model, [images])  # or any loader of images
        >>> logits = merged(images)

    Raises:
        UsageError: there was no batch to read, or the network cannot be run on one; its statistics are as before.
        DivergenceError: they would become NaN or infinite; they are as before.
    """
    recalibrate_together([(network, Batches(images, forward=forward, device=device_of(network)))], forward=forward)
    return network.eval()


def recalibrate_together(pairs: Sequence[tuple[nn.Module, Batches]], *, forward: Forward | None = None) -> None:
    """The same of several networks that may share statistics, which are then of all the images; in place.

    Args:
        pairs: each network, left in eval mode, with the images that it is run on. One may come twice.
        forward: from a network and a batch to its answer, where it is not called in the usual way.
    """
    modules = list(dict.fromkeys(module for network, _ in pairs for module in normalisers(network.eval())))
    if not modules:
        return
    with (
        torch.no_grad(),
        same_randomness(device_of(pairs[0][0])),
        _all_or_none(modules),
        _accumulating(modules) as weight,
    ):
        for network, batches in pairs:
            with told_of(batches.what):
                _read(network, batches, weight, forward)
                _check_finite(modules)


def _read(network: nn.Module, batches: Batches, weight: _Weight, forward: Forward | None) -> None:
    size = 1
    for batch in batches:
        if batch.size == 1 < size:
            continue
        size = weight.size = batch.size
        run(network, batch.inputs, forward)


def _check_finite(modules: Sequence[_NormBase]) -> None:
    for module in modules:
        for name, own in module.named_buffers(recurse=False):
            if not own.isfinite().all():
                raise DivergenceError(
                    f"{name} of a batch norm becomes NaN or infinite: these images, or weights before it, hold NaN or "
                    "are far too large."
                )


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
