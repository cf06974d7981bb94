"""What the verbs are given, checked: networks, a loader for each, a base, a method, names of what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from metasum.errors import ArchitectureError, UsageError, worded
from metasum.merging import METHODS
from metasum.merging.method import Method
from metasum.plugins import load_entry_points
from metasum.types import Parameters
from metasum.weights.batches import Batches, Forward, device_of
from metasum.weights.parameters import buffers_of, check_finite, check_same_architecture, parameters_of
from metasum.weights.structure import summable_copy


def method_of(method: str | Method, settings: Mapping[str, Any], *, seed: int) -> Method:
    """The method, by its name or as it is; raises UsageError for an unknown one, or settings beside an object."""
    if isinstance(method, str):
        load_entry_points()
        return METHODS.named(method)(seed=seed, **settings)
    if isinstance(method, type) and issubclass(method, Method):
        return method(seed=seed, **settings)
    if not isinstance(method, Method):
        raise UsageError(
            f"method is a {type(method).__name__}, and should be a name or an object like TIES(density=0.3)."
        )
    if settings:
        raise UsageError(f"{next(iter(settings))}= is a setting of {method.name}, which was made with its own already.")
    return method


def check_alike(networks: Sequence[nn.Module], kept: Sequence[frozenset[str]] | None = None) -> None:
    """Raises ArchitectureError unless they have the same parameters and buffers; the first difference is named.

    Args:
        networks: at least one.
        kept: for each, names that are not looked at, where some can be kept: whoever kept none is told.
    """
    apart = kept or [frozenset()] * len(networks)
    sets = [
        {name: own for name, own in {**parameters_of(network), **buffers_of(network)}.items() if name not in names}
        for network, names in zip(networks, apart, strict=True)
    ]
    try:
        check_same_architecture(sets)
    except ArchitectureError as error:
        if kept is None or any(kept):
            raise
        how = worded("keep=", "--keep")
        raise ArchitectureError(f"{error} Where heads differ, say with {how} what each network keeps.") from error


def networks_of(networks: Any, *, fewest: int = 2) -> list[nn.Module]:
    """The networks as a list, each of them ready; those that lie on another device than the first are copied there.

    Raises:
        UsageError: one is no module, has no weights yet or some that are NaN or infinite, or cannot be copied with all
            that it runs.
    """
    if isinstance(networks, nn.Module) and not isinstance(networks, nn.ModuleList):
        networks = [networks]
    found = list(networks)
    if len(found) < fewest:
        raise UsageError(f"give at least {fewest} networks, not {len(found)}.")
    for number, network in enumerate(found, start=1):
        if not isinstance(network, nn.Module):
            raise UsageError(f"network {number} is a {type(network).__name__}, and should be an nn.Module.")
        check_finite(network, f"network {number}")
    return [network if twin is None else twin for network, twin in zip(found, _copies(found), strict=True)]


def _copies(networks: Sequence[nn.Module]) -> Iterator[nn.Module | None]:
    """Copies on the first network's device, of those that are not there; raises where one cannot be made."""
    device = device_of(networks[0])
    for network in networks:
        twin = summable_copy(network)
        yield None if device_of(network) == device else twin.to(device)


def loaders_of(
    images: Any, count: int, *, what: str, forward: Forward | None, device: torch.device | None
) -> list[Batches] | None:
    """A loader for each of the networks; None where there are none. Raises UsageError where they are not as many."""
    if images is None:
        return None
    if isinstance(images, Tensor | Mapping) or not isinstance(images, Sequence) or len(images) != count:
        raise UsageError(
            f"{what}= takes a loader for each of the {count} networks, in a list; not "
            f"{len(images) if isinstance(images, Sequence) else f'a {type(images).__name__}'}."
        )
    iterators = [id(own) for own in images if isinstance(own, Iterator)]
    if len(set(iterators)) < len(iterators):
        raise UsageError(f"{what}= holds one iterator twice, which can be read only once.")
    return [
        Batches(own, what=f"{what} of network {number}", forward=forward, device=device)
        for number, own in enumerate(images, start=1)
    ]


def kept_names(networks: Sequence[nn.Module], keep: Sequence[str] | str) -> list[frozenset[str]]:
    """Names of each network's parameters and buffers that match one of the patterns, as the shell's.

    Raises:
        UsageError: a pattern matches nothing, or they match everything.
    """
    patterns = (keep,) if isinstance(keep, str) else tuple(keep)
    every = [[name for name, _ in (*net.named_parameters(), *net.named_buffers())] for net in networks]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for names in every for name in names):
            told = worded(f"keep={pattern!r}", f"--keep {pattern}")
            raise UsageError(f"{told}: no parameter is called so, as {every[0][0]!r} is.")
    kept = [frozenset(name for name in names if any(fnmatchcase(name, own) for own in patterns)) for names in every]
    for number, (network, own) in enumerate(zip(networks, kept, strict=True), start=1):
        if all(name in own for name, _ in network.named_parameters()):
            told = worded("keep=", "--keep")
            raise UsageError(f"{told} keeps every parameter of network {number}: nothing is left to be merged.")
    return kept


def base_of(base: Any, first: nn.Module, kept: frozenset[str]) -> Parameters:
    """θ_0 by name: of a network, or as a state dict has it; {} where there is none.

    Args:
        base: what was given.
        first: the first network, on whose device they are put.
        kept: names of its tensors that are not merged; these and buffers are left out.
    """
    if base is None:
        return {}
    tensors = dict(base.named_parameters()) if isinstance(base, nn.Module) else base
    if not isinstance(tensors, Mapping):
        raise UsageError(f"base is a {type(base).__name__}, and should be a network or its state dict.")
    if not any(isinstance(own, Tensor) for own in tensors.values()):
        raise UsageError("base= holds no tensor, and should be a network or its state dict.")
    apart = {*buffers_of(first), *kept}
    named = {name: own for name, own in tensors.items() if isinstance(own, Tensor) and name not in apart}
    for name, own in named.items():
        if not own.isfinite().all():
            raise UsageError(f"{worded('base=', '--base')}: {name!r} holds NaN or infinite numbers.")
    return {name: own.detach().to(device_of(first)) for name, own in named.items()}
