"""Comparing functional backends with the network itself, on a few inputs.

The reference is a copy of the network whose parameters are really overwritten. A backend passes where it gives the
same outputs, the same gradients and the same buffers, twice in a row, and leaves the network it was lent as it was.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metasum.errors import UsageError, reason
from metasum.types import Buffers, Parameters
from metasum.weights.copies import copy_of
from metasum.weights.functional import functional_call
from metasum.weights.inputs import Inputs, tensors_in
from metasum.weights.parameters import parameters_of
from metasum.weights.randomness import same_randomness
from metasum.weights.shared_parts import is_weight
from metasum.weights.structure import aliases

# shares of a tensor's size: GPUs add in any order
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2, torch.complex128: 1e-8, torch.complex64: 1e-2}
COARSE = 0.05  # in half precision, or under autocast
ENTRIES = 4  # of the batch, which batch normalisation still finds varied


@dataclass(frozen=True)
class Answer:
    """Of two calls in a row: outputs, gradients by parameter, buffers afterwards.

    `stranger` is a trainable tensor that the output depends on and that is not among the parameters given.
    """

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    stranger: Tensor | None


class Probe:
    """One network on a few inputs, against which backends are compared. Nothing of the network or its state changes.

    Args:
        network: what is probed, in the mode and on the device that it is in.
        buffers: by name; copied.
        inputs: what it is called with, of which the first few entries are used where the network takes as few.

    Raises:
        UsageError: the output depends on weights that are not the network's parameters, or on none of them.
    """

    def __init__(self, network: nn.Module, buffers: Buffers, inputs: Inputs) -> None:
        self._network, self._buffers = network, buffers
        self._device = inputs.device(network)
        with _apart(self._device) as rewind:
            self._inputs = inputs.copies(ENTRIES)
            try:
                self._own = _outputs(copy_of(network), self._inputs)
            except Exception:  # noqa: BLE001 (whatever a module of the user raises)
                self._inputs = inputs.copies()  # a network for whole batches only
                rewind()
                self._own = _outputs(copy_of(network), self._inputs)
            self._weights = _other_weights(network)
            rewind()
            self._expected = self._overwritten()
        known = [gradient for gradient in self._expected.gradients.values() if gradient is not None]
        self._largest = max((float(gradient.norm()) for gradient in known), default=0.0)
        if self._expected.stranger is not None:
            raise UsageError(
                f"the output of {type(network).__name__} depends on a trainable tensor "
                f"{list(self._expected.stranger.shape)} that is not among the network's parameters; "
                "register the module or the nn.Parameter that it belongs to."
            )
        pairs = zip(self._own, self._expected.outputs, strict=False)
        moved = any(own.shape != new.shape or not torch.equal(own, new) for own, new in pairs)
        if not moved and not self._largest:
            raise UsageError(
                f"{type(network).__name__} gives the same output with any parameters, so that it cannot be summed: "
                "its forward has to use the parameters that it registers."
            )

    def fault_of(self, backend: str) -> str | None:
        """What `backend` does wrong, in words that follow its name; None where it passes."""
        with _apart(self._device) as rewind:
            lent = copy_of(self._network)
            leaves = {n: _leaf(tensor) for n, tensor in self._weights.items()}
            buffers = {name: buffer.detach().clone() for name, buffer in self._buffers.items()}
            try:
                run = functools.partial(functional_call, lent, leaves, buffers, backend=backend)
                found = _answer(run, self._inputs, leaves)
                rewind()
                after = _outputs(lent, self._inputs)
            except Exception as error:  # noqa: BLE001 (whatever a backend raises)
                return f"ends in an error of its own ({type(error).__name__}: {reason(error)})"
        if found.stranger is not None:
            return f"goes on with weights of its own{self._whose()}"
        if not _all_close(found.outputs, self._expected.outputs):
            return f"computes another output than the network with these weights{self._whose()}"
        wrong = [name for name in leaves if not self._gradient_is_right(name, found)]
        if wrong:
            return (
                f"computes another gradient than the network with these weights, of {wrong[-1]!r} and back from there"
                f"{self._whose() or ' (as it does where what follows is checkpointed)'}"
            )
        if not _all_close([buffers[n] for n in buffers], [self._expected.buffers[n] for n in buffers]):
            return "leaves other buffers than the network with these weights"
        return None if _all_close(after, self._own) else f"changes the state of the network that it runs{self._whose()}"

    def _whose(self) -> str:
        return next((f" ({alias})" for alias in aliases(self._network)), "")

    def _gradient_is_right(self, name: str, found: Answer) -> bool:
        expected, actual = self._expected.gradients[name], found.gradients[name]
        zero = torch.zeros_like(self._weights[name])
        given = zero if actual is None else actual
        return _close(given, zero if expected is None else expected, floor=1e-3 * self._largest)

    def _overwritten(self) -> Answer:
        """What a copy whose parameters are really overwritten answers."""
        twin = copy_of(self._network)
        own, buffers = parameters_of(twin), dict(twin.named_buffers())
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(self._weights[name])
                parameter.requires_grad_(is_weight(parameter))
                parameter.grad = None
            for name, buffer in buffers.items():
                buffer.copy_(self._buffers[name])
        return _answer(twin, self._inputs, own, buffers=twin)


@contextmanager
def _apart(device: torch.device) -> Iterator[Callable[[], None]]:
    """With gradients, without warnings, and with random numbers that are put back."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad(), same_randomness(device) as rewind:
        warnings.simplefilter("ignore")
        yield rewind


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(is_weight(tensor))


def _other_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's parameters moved by about half their size; integers stay."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for name, own in parameters_of(network).items():
        weights[name] = own.detach().clone()
        if is_weight(own):
            size = float(own.detach().norm()) / max(own.numel(), 1) ** 0.5 or 0.1
            noise = torch.randn(own.shape, generator=generator).to(own.device).to(own.dtype)
            weights[name] += 0.5 * size * noise
    return weights


def _outputs(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return _tensors(inputs.copies().call(network))


def _tensors(output: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors_in(output)]


def _answer(
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
    gradients = {n: None if leaf.grad is None else leaf.grad.to_dense() for n, leaf in leaves.items()}
    kept = {} if buffers is None else {name: buffer.detach().clone() for name, buffer in buffers.named_buffers()}
    return Answer(outputs, gradients, kept, stranger)


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
        if hasattr(node, "variable"):
            yield node.variable
        waiting.extend(following for following, _ in node.next_functions)


def _all_close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(_close, found, expected))


def _close(found: Tensor, expected: Tensor, floor: float = 1e-12) -> bool:
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
