"""What averaging takes from activations given back, where there is no batch norm to recalibrate.

Between two networks a hidden unit's values vary less than in either of them, layer after layer. REPAIR (Jordan et al.
2023, arXiv:2211.08403, section 3) rescales every channel, so that its mean and deviation are again the mean of the
networks'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metasum.errors import UsageError
from metasum.modules.given import check_alike, networks_of
from metasum.weights.batches import Batches, Forward, device_of
from metasum.weights.calling import run
from metasum.weights.copies import copy_of
from metasum.weights.listening import listening
from metasum.weights.modes import in_eval_mode
from metasum.weights.randomness import same_randomness
from metasum.weights.statistics import normalisers

LEAST = 1e-5  # share of a layer's mean deviation below which a channel counts as constant


class Moments:
    """Mean and deviation of each channel over all that a layer put out."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, output: Tensor) -> None:
        """Counts a layer's output, rows `[n, channels]`, in."""
        wide = output.double()
        self._count += len(wide)
        self._sum = self._sum.to(wide) + wide.sum(dim=0)
        self._squares = self._squares.to(wide) + wide.square().sum(dim=0)

    @property
    def mean(self) -> Tensor:
        """`[channels]`, float64."""
        return self._sum / self._count

    @property
    def deviation(self) -> Tensor:
        """`[channels]`, float64."""
        return (self._squares / self._count - self.mean.square()).clamp(min=0).sqrt()


def repair(
    merged: nn.Module, networks: Sequence[nn.Module], images: Any, *, forward: Forward | None = None
) -> nn.Module:
    """A copy of `merged` whose hidden channels have the mean and deviation that the networks' have on average.

    Every linear and convolutional layer with a bias, but the last to run, has its weight and bias rescaled, from the
    input on, so that each reads what those before it have been repaired to. It is for networks without batch norm,
    where recalibration (`metasum.recalibrate`) does as much.

    Args:
        merged: of the networks' architecture, their average for instance; it and the networks are left as they are.
        networks: one or more, in the order of their channels that `merged` has: aligned, where that was done.
        images: a loader of images of all networks; labels are not looked at. It is read once for each network, and once
            for each layer.
        forward: (network, batch) to logits, where a network is not called as usual: see `metasum.weights.batches`.

    Returns:
        A new network in eval mode.

    Example:
        >>> aligned = metasum.align(mlp_b, to=mlp_a)
        >>> merged = metasum.merge([mlp_a, aligned])
        >>> repaired = metasum.repair(merged, [mlp_a, aligned], loader)

    Raises:
        UsageError: the networks have batch norm, no layer can be rescaled, or the images cannot be read so often.
        ArchitectureError: the networks differ; the first difference is named.
    """
    twin, *own = networks_of([merged, *networks])
    check_alike([twin, *own])
    if normalisers(twin):
        raise UsageError("a network with batch norm is repaired by new statistics: take metasum.recalibrate.")
    batches = Batches(images, forward=forward, device=device_of(twin))
    twin = copy_of(twin).eval()
    with torch.no_grad(), same_randomness(device_of(twin)), in_eval_mode(*own):
        wanted = [_moments(network, _layers(network), batches, forward) for network in own]
        names = list(wanted[0])[:-1]
        if not names:
            raise UsageError("there is no hidden linear or convolutional layer with a bias of its own to be repaired.")
        for name in names:
            layer = twin.get_submodule(name)
            found = _moments(twin, {name: layer}, batches, forward)[name]
            _rescale(layer, found, [moments[name] for moments in wanted])
    return twin


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """Those that can be rescaled, by name: with a weight and a bias of their own."""
    used = Counter(id(own) for module in network.modules() for own in module._parameters.values() if own is not None)

    def own(module: nn.Module) -> bool:
        tensors = [module._parameters.get(name) for name in ("weight", "bias")]
        return all(tensor is not None and used[id(tensor)] == 1 for tensor in tensors)

    kinds = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds) and own(module)}


def _moments(
    network: nn.Module, layers: Mapping[str, nn.Module], batches: Batches, forward: Forward | None
) -> dict[str, Moments]:
    """Of each layer's output on all images, in the order in which the layers run."""
    found: dict[str, Moments] = {}

    def hear(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        channels = -1 if isinstance(module, nn.Linear) else 1
        found.setdefault(name, Moments()).add(output.detach().movedim(channels, -1).flatten(0, -2))

    with listening(layers, returned=hear):
        for batch in batches:
            run(network, batch.inputs, forward)
    return found


def _rescale(layer: nn.Module, found: Moments, wanted: Sequence[Moments]) -> None:
    """Gives a layer's channels the mean of the wanted means and deviations; in place."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    mean, deviation = (
        torch.stack(each).mean(dim=0) for each in zip(*((m.mean, m.deviation) for m in wanted), strict=True)
    )
    constant = found.deviation <= LEAST * found.deviation.mean()
    factor = torch.where(constant, 1.0, deviation / found.deviation.clamp(min=torch.finfo(torch.float64).tiny))
    weight.mul_(factor.to(weight.dtype).view(-1, *[1] * (weight.ndim - 1)))
    bias.copy_((bias.double() - found.mean) * factor + mean)
