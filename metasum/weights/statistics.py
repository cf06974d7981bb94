"""Whose batch-norm statistics the summed network uses.

Running means and variances are not parameters: they are never added. A sum needs its own, and this is where most
attempts at adding networks break.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from metasum.arguments import checked
from metasum.errors import DivergenceError, told_of
from metasum.weights.batches import Batches, Forward, device_of
from metasum.weights.calling import run
from metasum.weights.randomness import same_randomness


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


@checked
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
