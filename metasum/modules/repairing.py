"""What averaging takes from activations given back, where there is no batch norm to recalibrate.

Between two networks a hidden unit's values vary less than in either of them, layer after layer. REPAIR (Jordan et al.
2023, arXiv:2211.08403, section 3) rescales every channel, so that its mean and deviation are again the mean of the
networks'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metasum.arguments import checked
from metasum.errors import UsageError
from metasum.modules.given import check_alike, networks_of
from metasum.weights.batches import Batches, Forward, device_of
from metasum.weights.calling import run
from metasum.weights.copies import copy_of
from metasum.weights.listening import listening
from metasum.weights.modes import in_eval_mode
from metasum.weights.randomness import same_randomness
from metasum.weights.statistics import normalisers

CACHED = 1 << 16  # entries that are summed at once
ROOM = 1 << 26  # entries of one layer's outputs on all images up to which they are run at once, a quarter of a GiB
LEAST = 1e-5  # share of a layer's mean deviation below which a channel counts as constant


class Moments:
    """Mean and deviation of each channel over all that a layer put out."""

    def __init__(self) -> None:
        self.calls, self.entries = 0, 0
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, output: Tensor, channels: int) -> None:
        """Counts a layer's output in, `channels` the dimension that holds them."""
        for some in torch.split(output.detach(), max(1, CACHED * len(output) // max(1, output.numel()))):
            wide = some.double().movedim(channels, 0).flatten(1)
            self._count += wide.shape[1]
            self._sum = self._sum.to(wide) + wide.sum(dim=1)
            self._squares = self._squares.to(wide) + torch.linalg.vecdot(wide, wide)
        self.calls, self.entries = self.calls + 1, self.entries + output.numel()

    @property
    def mean(self) -> Tensor:
        """`[channels]`, float64."""
        return self._sum / self._count

    @property
    def deviation(self) -> Tensor:
        """`[channels]`, float64."""
        return (self._squares / self._count - self.mean.square()).clamp(min=0).sqrt()


@checked
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
            more where what each layer puts out on all of it fits into memory (a quarter of a GiB in float32), else once
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
        goals = {name: [moments[name] for moments in wanted] for name in names}
        if (whole := _at_once(batches, list(wanted[0].values()))) is not None:
            with ExitStack() as hooks:
                for name, own_goals in goals.items():
                    hook = twin.get_submodule(name).register_forward_hook(partial(_mended, own_goals))
                    hooks.callback(hook.remove)
                run(twin, whole, forward)
        else:
            for name, own_goals in goals.items():
                layer = twin.get_submodule(name)
                _rescale(layer, _moments(twin, {name: layer}, batches, forward)[name], own_goals)
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
        found.setdefault(name, Moments()).add(output, _channels(module))

    with listening(layers, returned=hear):
        for batch in batches:
            run(network, batch.inputs, forward)
    return found


def _channels(layer: nn.Module) -> int:
    """The dimension of its output that holds channels."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _at_once(batches: Batches, heard: Sequence[Moments]) -> Any:
    """All inputs as one batch; None where layers' outputs on it take too much room, or run more than once."""
    if max(own.entries for own in heard) > ROOM:
        return None
    every = [batch.inputs for batch in batches]
    if any(own.calls != len(every) for own in heard):
        return None
    if len(every) == 1:
        return every[0]
    alike = all(isinstance(own, Tensor) and own.shape[1:] == every[0].shape[1:] for own in every)
    return torch.cat(every) if alike else None


def _mended(wanted: Sequence[Moments], layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """Rescales a layer by what it has put out, and returns what it would have put out then."""
    found = Moments()
    found.add(output, _channels(layer))
    factor, shift = (
        own.to(output.dtype).view(-1, *[1] * (output.ndim - 2 if _channels(layer) == 1 else 0))
        for own in _rescale(layer, found, wanted)
    )
    return output.mul_(factor).add_(shift)


def _rescale(layer: nn.Module, found: Moments, wanted: Sequence[Moments]) -> tuple[Tensor, Tensor]:
    """Gives a layer's channels the mean of the wanted means and deviations, in place; the factors, and what is added.

    Both are `[channels]`, float64.
    """
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    mean, deviation = (
        torch.stack(each).mean(dim=0) for each in zip(*((m.mean, m.deviation) for m in wanted), strict=True)
    )
    constant = found.deviation <= LEAST * found.deviation.mean()
    factor = torch.where(constant, 1.0, deviation / found.deviation.clamp(min=torch.finfo(torch.float64).tiny))
    shift = mean - found.mean * factor
    weight.mul_(factor.to(weight.dtype).view(-1, *[1] * (weight.ndim - 1)))
    bias.copy_(bias.double() * factor + shift)
    return factor, shift
