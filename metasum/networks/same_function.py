"""Whether two networks compute the same function: looked at on images, since looking at weights is not proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from metasum.errors import ArchitectureError, DivergenceError, UsageError
from metasum.weights.batches import Forward, described, size_of
from metasum.weights.calling import answer
from metasum.weights.listening import listening
from metasum.weights.parameters import check_same_architecture, parameters_of

TOLERANCE = 1e-3  # of the largest logit: sums in another order differ by rounding
TOLERANCE_ON_GPU = 1e-2  # where convolutions may round to TF32's three digits


def same_function(first: nn.Module, second: nn.Module, images: Any, *, forward: Forward | None = None) -> float:
    """The largest difference between the logits of two networks that should compute the same function.

    Args:
        first: in eval mode, like the second; neither is changed.
        second: of the same architecture, its channels perhaps in another order.
        images: `[N, C, H, W]`, or whatever the networks are called with (see `metasum.weights.batches`); at least one,
            and a few are enough.
        forward: from a network and such a batch to logits, where it is not called in the usual way.

    Returns:
        max |first(x) − second(x)| over images and logits. No gradient is recorded.

    Raises:
        ArchitectureError: it is more than rounding explains (a thousandth of the largest logit in float32). The first
            layer that computes other values, in whatever order, is named.
        UsageError: there is no image.
        DivergenceError: a logit of the first one is NaN or infinite.
    """
    if not size_of(images):
        raise UsageError("whether two networks compute the same function can only be seen on at least one image.")
    with torch.no_grad():
        logits, others = (answer(network, images, forward) for network in (first, second))
        if logits.shape != others.shape:
            raise ArchitectureError(
                f"the networks compute different functions: one answers with {described(logits)}, the other with "
                f"{described(others)}."
            )
        if not logits.isfinite().all():
            raise DivergenceError("a network answers with NaN or infinite numbers, so that nothing can be compared.")
        difference, scale = float((logits - others).abs().max()), float(logits.abs().max())
        share = max(TOLERANCE if logits.device.type == "cpu" else TOLERANCE_ON_GPU, 16 * torch.finfo(logits.dtype).eps)
        if difference <= share * scale:
            return difference
        told = (
            f"the networks compute different functions: their logits differ by {difference:.2g}, of at most {scale:.2g}"
        )
        if (other := _other_architecture(first, second)) is not None:
            raise ArchitectureError(f"{told}, and they are no networks of one architecture: {other}")
        layer = _first_different(first, second, lambda network: answer(network, images, forward), share)
    raise ArchitectureError(f"{told}; the first layer whose values differ, in whatever order they are, is {layer}.")


def _other_architecture(first: nn.Module, second: nn.Module) -> str | None:
    """The first parameter that one has and the other has not, or in another shape; None where there is none."""
    try:
        check_same_architecture([parameters_of(first), parameters_of(second)])
    except ArchitectureError as error:
        return str(error).rpartition("architecture: ")[2]
    return None


def _first_different(first: nn.Module, second: nn.Module, ask: Callable[[nn.Module], object], share: float) -> str:
    """The first layer, in the order in which they run, whose values are not those of the other network's."""
    with _values(first) as ours, _values(second) as theirs:
        ask(first)
        ask(second)
    for (name, one), (_, other) in zip(ours, theirs, strict=False):
        if one.shape != other.shape or not (one - other).abs().max() <= share * one.abs().max():  # NaN, too
            return f"{name!r} ({type(first.get_submodule(name)).__name__})"
    return "none of its modules: its own code depends on the order"


@contextmanager
def _values(network: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Within the block the values of each layer, sorted for each image, and so the same in whatever order."""
    found = list[tuple[str, Tensor]]()

    def keep(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append((name, output.float().flatten(1).sort(dim=1).values))

    leaves = {name: module for name, module in network.named_modules() if not any(module.children())}
    with listening(leaves, returned=keep):
        yield found
