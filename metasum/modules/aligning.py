"""One network brought into the order of another, and whether two networks compute the same function."""

from __future__ import annotations

from typing import Any

from torch import nn

from metasum.arguments import checked
from metasum.errors import UsageError
from metasum.merging import ALIGNMENT
from metasum.merging.endpoints import AligningMethod, Endpoint
from metasum.merging.method import Method
from metasum.modules.given import check_alike, method_of, networks_of
from metasum.networks.same_function import same_function as difference
from metasum.weights.batches import Batches, Forward, device_of
from metasum.weights.modes import in_eval_mode
from metasum.weights.randomness import same_randomness


@checked
def align(
    network: nn.Module,
    to: nn.Module,
    *,
    images: Any = None,
    forward: Forward | None = None,
    method: str | Method = ALIGNMENT,
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """A copy of `network` that computes the same function, its hidden channels in the order most like those of `to`.

    A straight line between networks, and so their average, is seldom of use where they were trained apart from the
    start; between aligned ones it may be (Ainsworth et al. 2023, arXiv:2209.04836). That the copy computes what the
    network does is looked at, on the images or else on noise, before it is returned.

    Args:
        network: is left as it is; the copy is in eval mode, on the device of `to`.
        to: of the same architecture.
        images: a loader of images that both networks are run on, where the method looks at any, and to prove the
            result.
        forward: (network, batch) to logits, where a network is not called as usual: see `metasum.weights.batches`.
        method: one that aligns, by name or as an object.
        seed: of what it draws.
        settings: of the method, where it is given by name.

    Example:
        >>> aligned = metasum.align(net_b, to=net_a)
        >>> metasum.merge([net_a, aligned])

    Raises:
        UsageError: the method does not align, or needs images.
        ArchitectureError: the networks differ, or it cannot be told which channels belong together.
    """
    own = method_of(method, settings, seed=seed)
    if not isinstance(own, AligningMethod):
        raise UsageError(f"{own.name} does not align networks; {ALIGNMENT} does.")
    if own.needs_images and images is None:
        raise UsageError(f"{own.name} looks at images: give a loader as images=.")
    first, second = networks_of([to, network])
    check_alike([first, second])
    device = device_of(first)
    inputs = () if images is None else Batches(images, forward=forward, device=device).inputs
    with same_randomness(device), in_eval_mode(first, second):
        return own.align(Endpoint(second, inputs, forward), Endpoint(first, inputs, forward)).eval()


@checked
def same_function(first: nn.Module, second: nn.Module, images: Any, *, forward: Forward | None = None) -> float:
    """The largest difference between the logits of two networks that should compute the same function.

    Both are run in eval mode, on the first network's device, and left as they were.

    Args:
        first: any network.
        second: of the same architecture, its channels perhaps in another order.
        images: a loader, of which the first batch is read, or one tensor; labels are not looked at.
        forward: (network, batch) to logits, where a network is not called as usual: see `metasum.weights.batches`.

    Returns:
        max |first(x) − second(x)| over the batch and all logits.

    Example:
        >>> metasum.same_function(network, permuted, loader)
        1.9e-06

    Raises:
        ArchitectureError: it is more than rounding explains (a thousandth of the largest logit). The first layer that
            computes other values, in whatever order, is named.
        UsageError: there is no image, or a network cannot be run on them.
    """
    first, second = networks_of([first, second])
    batches = Batches(images, forward=forward, device=device_of(first))
    with same_randomness(device_of(first)), in_eval_mode(first, second):
        return difference(first, second, next(iter(batches)).inputs, forward=forward)
