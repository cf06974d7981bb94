"""Merging networks of any kind: modules in, a module out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metasum.arguments import checked
from metasum.errors import DivergenceError, UsageError, worded
from metasum.merging.endpoints import Endpoint, NetworkMethod, WideningMethod
from metasum.merging.for_tasks import TaskMethod
from metasum.merging.memory import merge as merge_endpoints
from metasum.merging.memory import networks_for_tasks
from metasum.merging.method import Method
from metasum.modules.given import base_of, check_alike, kept_names, loaders_of, method_of, networks_of
from metasum.modules.tasks import MergedTasks
from metasum.types import Parameters
from metasum.weights.batches import Batches, Forward, device_of
from metasum.weights.copies import copy_of
from metasum.weights.modes import in_eval_mode
from metasum.weights.parameters import (
    buffers_of,
    check_same_architecture,
    find_norms_again,
    parameters_of,
    with_parameters,
)
from metasum.weights.randomness import same_randomness
from metasum.weights.shared_parts import check_equal, is_weight
from metasum.weights.statistics import recalibrate_together
from metasum.weights.statistics_policy import side_by_side

FEW = 8  # images that a network of another architecture is compared with the networks on


@checked
def merge(
    networks: Sequence[nn.Module] | nn.Module,
    method: str | Method = "average",
    *,
    images: Sequence[Any] | None = None,
    base: nn.Module | Mapping[str, Any] | None = None,
    forward: Forward | None = None,
    keep: Sequence[str] | str = (),
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """One network made of several of one architecture, in eval mode; those that are given stay as they are.

    Batch norms: with `images`, running statistics are recomputed on all loaders' images together (see `recalibrate`);
    without, they are the mean of the networks' own, which is seldom good enough. A method that leaves every network its
    own channels leaves it its own statistics. Other buffers are averaged where they differ.

    A method that has to know the task (EMR, TALL masks) merges nothing: its result is a `MergedTasks`, too, of a whole
    network for each, with statistics recomputed on its own images, or else its own.

    Args:
        networks: on any devices; the result is on the first one's.
        method: its name (`metasum methods` lists them) or an object, `TIES(density=0.3)`.
        images: a loader for each network, of the data that it was trained on; labels are not looked at.
        base: the network, or its state dict, from which all were trained: for methods that work on differences.
        forward: (network, batch) to logits, where a network is not called as usual: see `metasum.weights.batches`.
        keep: patterns of names, as the shell's, of parameters and buffers that each network keeps for itself, and that
            may differ in shape: `"head.*"`. The result is then a `MergedTasks`, which answers for each task through
            `for_task(i)`. With `images`, running statistics that are kept are recomputed with the rest, each task's on
            its own images: what reaches them is another network's doing now.
        seed: of what the method draws.
        settings: of the method, where it is given by name.

    Example:
        >>> merged = metasum.merge([net_a, net_b], "regmean", images=[loader_a, loader_b], shrinkage=0.9)

    Raises:
        UsageError: an unknown method or setting, too few networks, no base or images for a method that needs them.
        ArchitectureError: the networks differ; the first difference is named.
        DivergenceError: the result would hold NaN or infinite numbers.
    """
    own, given = method_of(method, settings, seed=seed), networks_of(networks, fewest=1)
    return merge_by(own, given, images=images, base=base, forward=forward, keep=keep)


def merge_by(
    own: Method,
    given: Sequence[nn.Module],
    *,
    images: Sequence[Any] | None = None,
    base: nn.Module | Parameters | None = None,
    forward: Forward | None = None,
    keep: Sequence[str] | str = (),
    before_statistics: Callable[[nn.Module], object] = lambda merged: None,
) -> nn.Module:
    """The same by a method that is an object, of networks that `networks_of` has looked at.

    Args:
        own: the method.
        given: the networks.
        before_statistics: is shown the merged network, of which all tasks share what is merged, and may change it,
            before batch-norm statistics are recomputed.
    """
    own.check(len(given))
    device, kept = device_of(given[0]), kept_names(given, keep)
    check_alike(given, kept)
    loaders = loaders_of(images, len(given), what="images", forward=forward, device=device)
    _check_needs(own, base, loaders, keep)
    with same_randomness(device), in_eval_mode(*given):
        own_images = [loader.inputs for loader in loaders or ()] or [()] * len(given)
        endpoints = [
            Endpoint(network, inputs, forward, names)
            for network, inputs, names in zip(given, own_images, kept, strict=True)
        ]
        if isinstance(own, WideningMethod):
            return own.network(given, endpoints[0].few_images(FEW), forward=forward)
        if isinstance(own, TaskMethod):
            networks = networks_for_tasks(own, endpoints, base_of(base, given[0], kept[0]))
            if loaders is not None:
                recalibrate_together(list(zip(networks, loaders, strict=True)), forward=forward)
            return MergedTasks(networks).eval()
        if isinstance(own, NetworkMethod):
            endpoints = list(own.prepared(endpoints))
        merged = merge_endpoints(own, endpoints, base_of(base, given[0], kept[0]), prepared=True)
        _check_finite(own, merged)
        tasks = _assembled(endpoints, merged)
        before_statistics(tasks[0])
        _settle(own, endpoints, tasks, loaders, forward)
    return MergedTasks(tasks).eval() if keep else tasks[0]


def _check_needs(method: Method, base: object, loaders: object, keep: object) -> None:
    if method.needs_base and base is None:
        given = worded("it as base=", "--base FILE")
        raise UsageError(f"{method.name} works on differences from a common start: give {given}.")
    if method.needs_images and loaders is None:
        given = worded("a loader for each as images=[…]", "--images FILE.npz,…, a file for each")
        raise UsageError(f"{method.name} looks at images of each network's data: give {given}.")
    if keep and isinstance(method, WideningMethod):
        raise UsageError(f"{method.name} makes a network of another architecture, of which nothing can be kept apart.")


def _check_finite(method: Method, merged: Parameters) -> None:
    for name, own in merged.items():
        if not own.isfinite().all():
            raise DivergenceError(
                f"{method.name} makes {name!r} NaN or infinite: images that it looks at hold NaN, or far too much is "
                "asked of it."
            )


def _assembled(endpoints: Sequence[Endpoint], merged: Parameters) -> list[nn.Module]:
    """The result, in eval mode; where something is kept, a network for each task, with the merged tensors in common."""
    first, *others = endpoints
    tasks = [with_parameters(first.network, {**parameters_of(first.network), **merged}).eval()]
    _average_buffers([_buffers(end) for end in endpoints], tasks[0])
    find_norms_again(tasks[0])
    if first.kept:
        common = {**parameters_of(tasks[0]), **buffers_of(tasks[0])}
        for end in others:
            shared = {name for name in (*parameters_of(end.network), *buffers_of(end.network)) if name not in end.kept}
            tasks.append(copy_of(end.network, instead={name: common[name] for name in shared}).eval())
    return tasks


def _buffers(endpoint: Endpoint) -> dict[str, Tensor]:
    return {name: own for name, own in buffers_of(endpoint.network).items() if name not in endpoint.kept}


def _average_buffers(sets: Sequence[dict[str, Tensor]], network: nn.Module) -> None:
    """Gives `network` the mean of buffers that differ; counters stay the first's."""
    check_same_architecture(sets)
    integers = [name for name, own in sets[0].items() if not is_weight(own) and own.numel() > 1]
    check_equal(sets, integers, "a buffer of integers, which cannot be merged")
    with torch.no_grad():
        for name, buffer in buffers_of(network).items():
            if name in sets[0] and is_weight(buffer) and not all(torch.equal(own[name], buffer) for own in sets):
                wide = torch.stack([own[name] for own in sets])
                buffer.copy_((wide if wide.dtype in (torch.float64, torch.complex128) else wide.float()).mean(dim=0))


def _settle(
    method: Method,
    endpoints: Sequence[Endpoint],
    tasks: Sequence[nn.Module],
    loaders: Sequence[Batches] | None,
    forward: Forward | None,
) -> None:
    """Gives the result batch-norm statistics: every network's own where it can have them, else those of the images."""
    own = side_by_side([end.network for end in endpoints]) if method.keeps_functions and len(tasks) == 1 else None
    if own is not None:
        for name, buffer in tasks[0].named_buffers():
            buffer.copy_(own[name])
    elif loaders is not None:
        whose = tasks if len(tasks) > 1 else [tasks[0]] * len(loaders)
        recalibrate_together(list(zip(whose, loaders, strict=True)), forward=forward)
