"""A network's answer to a batch: however it is called, one tensor of logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from metasum.errors import MetaSumError, UsageError, reason, worded
from metasum.weights.batches import Asked, Forward, described


def answer(network: nn.Module, inputs: Any, forward: Forward | None = None) -> Tensor:
    """The network's logits, or whatever else it computes, as one tensor.

    Args:
        network: is called as it is; modes and gradients are the caller's.
        inputs: as `Asked.inputs`.
        forward: calls it instead.

    Raises:
        UsageError: the network cannot be called so, or answers with something that holds no logits.
    """
    return answer_and_labels(network, Asked(inputs, None), forward)[0]


def answer_and_labels(network: nn.Module, batch: Asked, forward: Forward | None = None) -> tuple[Tensor, Any]:
    """The same, with the batch's labels, or those that `forward` gives."""
    found = run(network, batch.inputs, forward)
    if forward is not None and type(found) is tuple and len(found) == 2:
        return logits_in(found[0]), found[1]
    return logits_in(found), batch.labels


def run(network: nn.Module, inputs: Any, forward: Forward | None = None) -> Any:
    """Whatever the network answers; raises UsageError where it cannot be called so."""
    try:
        if forward is not None:
            return forward(network, inputs)
        if isinstance(inputs, Mapping):
            return network(**inputs)
        return network(*inputs) if isinstance(inputs, tuple) else network(inputs)
    except MetaSumError:
        raise
    except Exception as error:  # whatever the network's own code says to these inputs
        raise UsageError(
            f"the network cannot be run on a batch of {described(inputs)} ({reason(error)}){_said_how('; say how')}."
        ) from error


def logits_in(found: Any) -> Tensor:
    """The logits in what a network answers: a tensor, or an object's or a dictionary's; raises UsageError else."""
    held = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    for candidate in (found, held):
        if isinstance(candidate, Tensor):
            return candidate
    raise UsageError(
        f"the network answers with a {type(found).__name__} without "
        f"logits{_said_how('; say which tensor is meant', '; let --model make one that returns them')}."
    )


def _said_how(python: str, command: str = "") -> str:
    return worded(f"{python} with forward=, a function from the network and a batch to logits", command)
