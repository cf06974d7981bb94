"""Comparing functional backends with the network itself, on a few inputs.

The reference is a copy of the network whose parameters are really overwritten. A backend passes where it gives the
same outputs, the same gradients and the same buffers, twice in a row, and leaves the network it was lent as it was.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metasum.errors import UsageError, reason
from metasum.types import Buffers
from metasum.weights.answers import Answer, all_close, answer_of, close, outputs_of
from metasum.weights.copies import copy_of
from metasum.weights.functional import functional_call
from metasum.weights.inputs import Inputs
from metasum.weights.parameters import parameters_of
from metasum.weights.randomness import same_randomness
from metasum.weights.shared_parts import is_weight
from metasum.weights.structure import aliases

ENTRIES = 4  # of the batch, which batch normalisation still finds varied


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
                self._own = self._as_it_is()
            except Exception:  # noqa: BLE001 (whatever a module of the user raises)
                self._inputs = inputs.copies()  # a network for whole batches only
                rewind()
                self._own = self._as_it_is()
            self._weights = _other_weights(network)
            rewind()
            try:
                self._expected = self._overwritten()
            except Exception as error:
                raise UsageError(
                    f"{type(network).__name__} with other weights cannot run forward and backward twice in a row: "
                    f"{reason(error)}"
                ) from error
        known = [gradient for gradient in self._expected.gradients.values() if gradient is not None]
        self._largest = max((float(gradient.norm()) for gradient in known), default=0.0)
        self._refuse_what_cannot_be_summed()

    def _refuse_what_cannot_be_summed(self) -> None:
        kind, expected = type(self._network).__name__, self._expected
        if self._rewritten is not None:
            raise UsageError(
                f"{kind} changes its parameter {self._rewritten!r} while it runs, for which a sum has no place: "
                "keep what changes in a buffer, or change it after each step."
            )
        if expected.stranger is not None:
            raise UsageError(
                f"the output of {kind} depends on a trainable tensor {list(expected.stranger.shape)} that is not among "
                "the network's parameters; register the module or the nn.Parameter that it belongs to."
            )
        pairs = zip(self._own, expected.outputs, strict=False)
        moved = any(own.shape != new.shape or not torch.equal(own, new) for own, new in pairs)
        if not moved and not self._largest:
            raise UsageError(
                f"{kind} gives the same output with any parameters, so that it cannot be summed: its forward "
                "has to use the parameters that it registers."
            )

    def _as_it_is(self) -> list[Tensor]:
        """What a copy with the network's own weights answers."""
        twin = copy_of(self._network)
        outputs = outputs_of(twin, self._inputs)
        before, after = _shapes(self._network), _shapes(twin)
        made = next((name for name in after if after[name] != before.get(name)), None)
        if made is not None:
            raise UsageError(
                f"{type(twin).__name__} gives its {made!r} a shape at its first batch; "
                "run the network once, then sum it."
            )
        return outputs

    def fault_of(self, backend: str) -> str | None:
        """What `backend` does wrong, in words that follow its name; None where it passes."""
        with _apart(self._device) as rewind:
            lent = copy_of(self._network)
            leaves = {n: _leaf(tensor) for n, tensor in self._weights.items()}
            buffers = {name: buffer.detach().clone() for name, buffer in self._buffers.items()}
            try:
                run = functools.partial(functional_call, lent, leaves, buffers, backend=backend)
                found = answer_of(run, self._inputs, leaves)
                rewind()
                after = outputs_of(lent, self._inputs)
            except Exception as error:  # noqa: BLE001 (whatever a backend raises)
                return f"ends in an error of its own ({type(error).__name__}: {reason(error)})"
        if found.stranger is not None:
            return f"goes on with weights of its own{self._whose()}"
        if not all_close(found.outputs, self._expected.outputs):
            return f"computes another output than the network with these weights{self._whose()}"
        wrong = [name for name in leaves if not self._gradient_is_right(name, found)]
        if wrong:
            return (
                f"computes another gradient than the network with these weights, of {wrong[-1]!r} and back from there"
                f"{self._whose() or ' (as it does where what follows is checkpointed)'}"
            )
        if not all_close([buffers[n] for n in buffers], [self._expected.buffers[n] for n in buffers]):
            return "leaves other buffers than the network with these weights"
        return None if all_close(after, self._own) else f"changes the state of the network that it runs{self._whose()}"

    def _whose(self) -> str:
        return next((f" ({alias})" for alias in aliases(self._network)), "")

    def _gradient_is_right(self, name: str, found: Answer) -> bool:
        expected, actual = self._expected.gradients[name], found.gradients[name]
        zero = torch.zeros_like(self._weights[name])
        given = zero if actual is None else actual
        return close(given, zero if expected is None else expected, floor=1e-3 * self._largest)

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
        found = answer_of(twin, self._inputs, own, buffers=twin)
        changed = (name for name in own if not _same(own[name], self._weights[name]))
        self._rewritten = next(changed, None)
        return found


@contextmanager
def _apart(device: torch.device) -> Iterator[Callable[[], None]]:
    """With gradients, without warnings, and with random numbers that are put back."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad(), same_randomness(device) as rewind:
        warnings.simplefilter("ignore")
        yield rewind


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: own.shape for name, own in (*network.named_parameters(), *network.named_buffers())}


def _same(found: Tensor, before: Tensor) -> bool:
    return torch.allclose(found, before, rtol=0, atol=0, equal_nan=True)


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
