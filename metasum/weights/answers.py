"""What a network answers to inputs, to compare: outputs, gradients, buffers, and where else the outputs come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metasum.types import Parameters
from metasum.weights.inputs import Inputs, tensors_in
from metasum.weights.shared_parts import is_weight

# shares of a tensor's size: GPUs add in any order
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2, torch.complex128: 1e-8, torch.complex64: 1e-2}
COARSE = 0.05  # in half precision, or under autocast


@dataclass(frozen=True)
class Answer:
    """Of two calls in a row: outputs, gradients by parameter, buffers afterwards.

    `stranger` is a trainable tensor that the output depends on and that is not among the parameters given.
    """

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    stranger: Tensor | None


def outputs_of(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return _tensors(inputs.copies().call(network))


def _tensors(output: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors_in(output)]


def answer_of(
    run: Callable[..., Any], inputs: Inputs, leaves: Parameters, *, buffers: nn.Module | None = None
) -> Answer:
    """Calls twice, each time with a backward of its own into `leaves`."""
    outputs: list[Tensor] = []
    stranger = None
    for _ in range(2):
        output = inputs.copies().call(run)
        outputs += _tensors(output)
        roots = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
        own = {id(leaf) for leaf in leaves.values()}
        if stranger is None:
            stranger = next((tensor for tensor in _graph_leaves(roots) if id(tensor) not in own), None)
        if roots and stranger is None:  # whose gradient is not to be touched
            torch.autograd.backward(roots, [_direction(root) for root in roots])
    gradients = {n: None if leaf.grad is None else _dense(leaf.grad) for n, leaf in leaves.items()}
    kept = {} if buffers is None else {name: buffer.detach().clone() for name, buffer in buffers.named_buffers()}
    return Answer(outputs, gradients, kept, stranger)


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _direction(output: Tensor) -> Tensor:
    """A fixed gradient with respect to the output, different for each of its numbers."""
    return torch.cos(torch.arange(output.numel(), device=output.device)).to(output.dtype).reshape(output.shape)


def _graph_leaves(roots: list[Tensor]) -> Iterator[Tensor]:
    seen: set[Any] = set()
    waiting = [root.grad_fn for root in roots] + [None]
    yield from (root for root in roots if root.grad_fn is None)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        waiting.extend(following for following, _ in node.next_functions)


def all_close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(close, found, expected))


def close(found: Tensor, expected: Tensor, floor: float = 1e-12) -> bool:
    """Whether the tensors differ by little, as a share of their size; not-a-number agrees with itself."""
    if found.shape != expected.shape:
        return False
    if not is_weight(expected):
        return torch.equal(found, expected)
    narrow = torch.is_autocast_enabled(expected.device.type)
    tolerance = COARSE if narrow else TOLERANCE.get(expected.dtype, COARSE)
    if expected.dtype not in TOLERANCE:
        expected, found = expected.float(), found.float()
    finite = expected.isfinite()
    if not bool(finite.all()):
        if not torch.equal(finite, found.isfinite()):
            return False
        expected, found = torch.where(finite, expected, 0), torch.where(finite, found, 0)
    return float((found - expected).norm()) <= tolerance * (float(expected.norm()) + floor)
