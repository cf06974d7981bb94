"""Running a network with given parameters and given buffers, through any of three libraries.

Each computes the same function and gradients for ordinary modules; `Runner` finds out which one does for a given
module. In train mode batch normalisation updates the *given* buffers in place; the network's own are never touched
(learn2learn's clones share them: here they are replaced).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call as torch_functional_call

from metasum import third_party
from metasum.config.words import usual_backend
from metasum.errors import UsageError, unknown
from metasum.types import Buffers, Parameters
from metasum.weights.inputs import Inputs
from metasum.weights.parameters import buffers_of, check_same_architecture, parameters_of
from metasum.weights.structure import refusal

Backend = Callable[[nn.Module, Parameters, Buffers, Inputs], Any]


def functional_call(
    network: nn.Module,
    parameters: Parameters,
    buffers: Buffers,
    *inputs: Any,
    backend: str | None = None,
    **named_inputs: Any,
) -> Any:
    """`network(*inputs, **named_inputs)` as if it had these parameters and buffers.

    Nothing is compared: a module that reaches its layers by a way that it does not register (a plain list, a bound
    method) may be run with its old ones. `MetaSum` checks; see `metasum.weights.runner.Runner`.

    Args:
        network: lends its structure and its train or eval mode; none of its tensors is read or changed.
        parameters: every parameter by name; gradients flow to them.
        buffers: every buffer by name; changed in place by batch normalisation in train mode.
        inputs: what the network is called with, for instance images `[N, C, H, W]`; and by name, `named_inputs`.
        backend: "learn2learn", "torch" or "higher" [default: the first of them that is installed].

    Example:
        >>> parameters = {name: 0.9 * own for name, own in model.named_parameters()}
        >>> buffers = {name: own.clone() for name, own in model.named_buffers()}
        >>> logits = functional_call(model, parameters, buffers, images)
        >>> cross_entropy(logits, labels).backward()  # reaches the model's parameters through 0.9 times each

    Raises:
        ArchitectureError: `parameters` or `buffers` are not those of `network`, by name, shape and dtype.
        UsageError: the structure of `network` says that this backend cannot run it; the submodule is named. Or the
            backend is not installed.
    """
    backend = usual_backend() if backend is None else backend
    _check_backend(backend)
    check_same_architecture([parameters_of(network), parameters], names=("the network", "the given parameters"))
    check_same_architecture([buffers_of(network), buffers], names=("the network", "the given buffers"))
    why = refusal(network, backend)
    if why:
        raise UsageError(f"backend {backend} cannot run this network: {why}.")
    return BACKENDS[backend](network, parameters, buffers, Inputs(inputs, named_inputs))


def import_backend(backend: str) -> None:
    """Imports the library behind a backend, which takes seconds the first time.

    Raises:
        UsageError: there is no such backend, or it is not installed.
    """
    _check_backend(backend)
    if backend != "torch":
        getattr(third_party, backend)()


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)


def _with_learn2learn(network: nn.Module, parameters: Parameters, buffers: Buffers, inputs: Inputs) -> Any:
    # clone_module looks each parameter up in `memo` before it clones it, under the key `parameter.data_ptr` (the bound
    # method). Filled in beforehand, the clone is made of the given tensors: no copy, no rounding, any operator.
    memo = {own.data_ptr: parameters[name] for name, own in network.named_parameters()}
    clone: nn.Module = third_party.learn2learn().clone_module(network, memo=memo)
    set_buffers(clone, network, buffers)
    answer = inputs.call(clone)
    with torch.no_grad():
        for name, buffer in clone.named_buffers():  # a forward may put new tensors in their places
            if name in buffers and buffer is not buffers[name]:
                buffers[name].copy_(buffer)
    return answer


def _with_torch(network: nn.Module, parameters: Parameters, buffers: Buffers, inputs: Inputs) -> Any:
    # Every place once, by its first name: where a module has two, torch's own look-up of ties fills its places twice,
    # and leaves the given tensors in it.
    names = {id(own): name for name, own in (*network.named_parameters(), *network.named_buffers())}
    given = {**parameters, **buffers}
    places: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        registered = (*_registered(module._parameters), *_registered(module._buffers))
        places |= {f"{path}.{key}".lstrip("."): given[names[id(own)]] for key, own in registered}
    return torch_functional_call(network, places, inputs.positional, inputs.named, tie_weights=False)


def _registered(registry: Any) -> Iterator[tuple[str, Tensor]]:
    return ((key, own) for key, own in registry.items() if own is not None)


def _with_higher(network: nn.Module, parameters: Parameters, buffers: Buffers, inputs: Inputs) -> Any:
    patched = third_party.higher().patch.make_functional(network)
    set_buffers(patched, network, buffers)
    own = [parameters[name] for name, _ in network.named_parameters()]
    return patched(*inputs.positional, **inputs.named, params=own)


def set_buffers(copy: nn.Module, network: nn.Module, buffers: Buffers) -> None:
    """Gives a structural copy of `network` the given buffers, all of them; one shared by two modules stays shared."""
    names = {id(buffer): name for name, buffer in network.named_buffers()}
    copies = dict(copy.named_modules(remove_duplicate=False))
    for path, module in network.named_modules(remove_duplicate=False):
        own = copies[path]._buffers
        for key, buffer in module._buffers.items():
            own[key] = None if buffer is None else buffers[names[id(buffer)]]


BACKENDS: dict[str, Backend] = {"learn2learn": _with_learn2learn, "torch": _with_torch, "higher": _with_higher}
