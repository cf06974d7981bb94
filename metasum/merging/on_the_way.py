"""Merged weights while they are still being found: networks that have them, run on each one's own images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from metasum.merging.endpoints import Endpoint

if TYPE_CHECKING:
    from metasum.types import Parameters


def with_common_weights(endpoints: Sequence[Endpoint], common: Parameters) -> list[Endpoint]:
    """The endpoints with copies of their networks, in which merged parameters are the same tensors.

    Whoever writes into one network's merged parameters writes into all. Without heads of their own it is one network.
    Batch norms take the statistics of the batch that they see, and everything else is in eval mode; all weights take
    gradients, frozen ones, too.

    Args:
        endpoints: of which what is kept stays each network's own.
        common: the merged parameters, with those of integers or without.
    """
    from metasum.weights.copies import copy_of
    from metasum.weights.parameters import parameters_of, with_parameters
    from metasum.weights.shared_parts import is_weight
    from metasum.weights.statistics import normalisers

    first = endpoints[0]
    networks = [with_parameters(first.network, {**parameters_of(first.network), **common}).eval()]
    if first.kept:
        shared = {name: own for name, own in networks[0].named_parameters() if name not in first.kept}
        networks += [copy_of(end.network, instead=shared).eval() for end in endpoints[1:]]
    for network in networks:
        for own in network.parameters():
            own.requires_grad_(is_weight(own))
        for norm in normalisers(network):
            norm.train()
    return [end._replace(network=networks[min(place, len(networks) - 1)]) for place, end in enumerate(endpoints)]


def batches_of(endpoint: Endpoint, count: int, *, size: int) -> Iterator[Any]:
    """Its first `count` inputs in batches of at most `size`; a last one of one input, without a variance, is left out.

    Args:
        endpoint: with images.
        count: of inputs, at most.
        size: of a batch; a loader's smaller ones stay as they are.
    """
    from metasum.weights.batches import limited, size_of

    most = 1
    for batch in limited(endpoint.images, count, size=size):
        if size_of(batch) >= min(2, most):
            most = max(most, size_of(batch))
            yield batch
