"""A weight for each network: checked, and as shares of a mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from metasum.config import Checked, option
from metasum.errors import UsageError, worded
from metasum.merging.method import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharesConfig(Checked):
    """Of methods whose weights are divided by their sum."""

    weights: tuple[float, ...] = option(
        (), "Weight of each network; none, where a mean is taken, means all alike.", minimum=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and not any(self.weights):
            raise UsageError("--weights of a mean are not all of them 0.")


def shares(weights: Sequence[float], count: int) -> list[float]:
    """Weights that add up to 1: those that are given, divided by their sum; without any, all alike."""
    total = sum(weights)
    return [weight / total for weight in weights] if weights else [1 / count] * count


def check_weights(method: Method, count: int, *, what: str, optional: bool = True) -> None:
    """Raises UsageError where a method's weights, or those of some layers, are not one for each network.

    Args:
        method: whose setting `weights` is the layered one.
        count: of networks.
        what: to call them.
        optional: whether there may be none.
    """
    for weights in (method.config.weights, *(value for _, value in method.layers)):
        if len(weights) != count and not (optional and not weights):
            raise UsageError(
                f"{method.name} takes one weight for each of the {count} {what}, for instance "
                f"{worded('weights=(0.3, 0.7)', '--weights 0.3,0.7')}."
            )
