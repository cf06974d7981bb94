"""The summed network for one training step, whose gradient is gathered before it is handed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from metasum.types import Parameters


class DetachedSum:
    """θ_t ⊕ θ_s as leaves of the graph: the same gradient as `MetaSum.summed`, gathered here before it is handed on.

    Walking back through the network and adding to both networks' gradients at once takes a fifth longer than
    doing one after the other (width 1.0, CPU). The composition is made once, for any number of forward passes.

    Example:
        >>> summed = networks.detached_sum()
        >>> cross_entropy(summed(images), labels).backward()
        >>> summed.hand_on()  # now in the gradients of networks.target and networks.support

    Args:
        run: from parameters and inputs to the sum's output.
        composed: θ_t ⊕ θ_s by name, with its graph.
    """

    def __init__(self, run: Callable[..., Any], composed: Parameters) -> None:
        self._run, self._composed = run, composed
        self._leaves = {name: tensor.detach().requires_grad_(tensor.requires_grad) for name, tensor in composed.items()}

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What the sum answers to inputs; gradients stay with the composition until `hand_on`."""
        return self._run(self._leaves, *inputs, **named)

    def hand_on(self) -> None:
        """Adds what was gathered to both networks' gradients, once."""
        reached = [name for name, leaf in self._leaves.items() if leaf.grad is not None]
        torch.autograd.backward([self._composed[n] for n in reached], [self._leaves[n].grad for n in reached])
