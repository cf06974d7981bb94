"""What a network's structure says about running it with other weights, before it sees an image.

A functional backend replaces the tensors that a network registers as parameters. Whatever reaches a layer or a weight
by another way (a plain list, a bound method, a compiled wrapper) may go on with the old ones.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, jit, nn
from torch.nn.modules.lazy import LazyModuleMixin

from metasum.errors import UsageError
from metasum.weights.copies import copy_of, slots_of

REGISTRIES = ("_parameters", "_buffers", "_modules")
SETTINGS = ("qconfig",)  # what PyTorch's quantisation notes down for itself
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
DEPTH, OBJECTS = 6, 5000  # how far, and how much, is looked at behind one attribute

PLAIN_LAYERS: frozenset[type[nn.Module]] = frozenset({
    nn.Sequential, nn.Identity, nn.Flatten, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d,
    nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.GELU,
    nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softmax, nn.LogSoftmax, nn.Dropout, nn.Dropout2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
})  # fmt: skip
"""Layers of PyTorch whose forward is a function of their own registered tensors, or calls their children in turn."""


@dataclass(frozen=True)
class Alias:
    """A second way to `held`, a layer or weight: through an `attribute` of the submodule `holder` ("": the network)."""

    holder: str
    attribute: str
    held: str

    def __str__(self) -> str:
        return f"{named(self.holder)} reaches {named(self.held)} through its attribute {self.attribute!r}"


def named(name: str) -> str:
    """How a submodule or parameter is called in a sentence."""
    return repr(name) if name else "the network"


def aliases(network: nn.Module, of: nn.Module | None = None) -> Iterator[Alias]:
    """Ways to modules and parameters of `of` [default: of `network` itself] that `network` does not register.

    Looked through are attributes of all submodules, hooks, and what the forward of their class closes over: lists,
    dictionaries, bound methods, partial and inner functions, and objects.
    """
    owner = network if of is None else of
    wanted = {id(module): name for name, module in owner.named_modules()}
    wanted |= {id(parameter): name for name, parameter in owner.named_parameters()}
    for holder, module in network.named_modules():
        kept = vars(module) | slots_of(module)
        places = [(key, value) for key, value in kept.items() if key not in (*REGISTRIES, *SETTINGS)]
        for attribute, value in [*places, ("forward", getattr(type(module), "forward", None))]:
            held = _first_held(value, wanted)
            if held is not None:
                yield Alias(holder, attribute, held)


def _first_held(value: Any, wanted: Mapping[int, str]) -> str | None:
    seen: set[int] = set()
    layer = [value]
    for _ in range(DEPTH):
        following: list[Any] = []
        for item in layer:
            if id(item) in wanted:
                return wanted[id(item)]
            if id(item) not in seen and len(seen) < OBJECTS:
                seen.add(id(item))
                following.extend(_behind(item))
        layer = following
    return None


def _behind(value: Any) -> Iterable[Any]:
    """What a value holds, one step further."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, weakref.ReferenceType):
        return [value()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        return [*_cells(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, type | types.ModuleType | Tensor | str | bytes | int | float) or value is None:
        return ()
    return [*getattr(value, "__dict__", {}).values(), *slots_of(value).values()]


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that was never assigned
            continue


def is_plain(network: nn.Module) -> bool:
    """Whether structure alone shows that every backend runs `network` rightly, so that no probe is needed.

    So it is where all modules are `PLAIN_LAYERS`, or declare `plain_forward = True` (their forward calls registered
    children and reads registered tensors, and nothing else), and nobody attached hooks, methods or second ways.
    """
    for module in network.modules():
        if type(module) not in PLAIN_LAYERS and not vars(type(module)).get("plain_forward"):
            return False
        if any(getattr(module, hooks) for hooks in HOOKS) or "forward" in vars(module) or _is_compiled(module):
            return False
        if any(isinstance(value, Tensor) for value in vars(module).values()):
            return False
    return next(aliases(network), None) is None


def refusal(network: nn.Module, backend: str) -> str | None:
    """Why `backend` cannot run `network`, where its structure alone says so; else None."""
    for name, module in network.named_modules():
        why = _refusal(module, backend, is_root=module is network)
        if why:
            return f"{named(name)} ({type(module).__name__}) {why}"
    return None


def _refusal(module: nn.Module, backend: str, *, is_root: bool) -> str | None:
    if isinstance(module, jit.ScriptModule) and (backend != "torch" or is_root):
        return "is compiled by torch.jit: take the module that it was made from"
    if backend == "torch":
        return "is one that torch.func does not run" if isinstance(module, nn.DataParallel) and is_root else None
    if _is_compiled(module):
        return "is compiled by torch.compile"
    if backend == "higher" and any(getattr(module, hooks) for hooks in HOOKS):
        return "has forward hooks, which higher leaves out"
    return None


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or vars(module).get("_compiled_call_impl") is not None


def summable_copy(network: nn.Module) -> nn.Module:
    """A deep copy of `network`, which can be summed with others.

    Raises:
        ArchitectureError: a submodule cannot be copied; it is named.
        UsageError: a lazy module has no weights yet; a module is compiled by torch.jit; there are weights that are
            neither parameters nor buffers, as quantised ones; a parameter has hooks of its own; the network has no
            floating-point parameters; or the copy still calls layers of the original, as through an inner function.
    """
    kind = type(network).__name__
    for name, module in network.named_modules():
        own = f"{named(name)} ({type(module).__name__})"
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise UsageError(f"{own} has no weights before its first batch; run the network once, then sum it.")
        if isinstance(module, jit.ScriptModule):
            raise UsageError(f"{own} is compiled by torch.jit; sum the module that it was made from.")
    hidden = _hidden_weights(network)
    if hidden is not None:
        raise UsageError(
            f"{kind} keeps weights that are neither parameters nor buffers ({hidden!r} in its state dict), as "
            "quantised layers do; sum the networks before quantising."
        )
    for name, parameter in network.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise UsageError(
                f"parameter {name!r} has gradient hooks, which no copy keeps: take them off before, and attach them to "
                "the parameters of target and support."
            )
    if not any(parameter.is_floating_point() or parameter.is_complex() for parameter in network.parameters()):
        raise UsageError(f"{kind} has no floating-point parameters, so that there is nothing to sum.")
    twin = copy_of(network)
    alias = next(aliases(twin, of=network), None)
    if alias is not None:
        raise UsageError(
            f"a copy of {kind} still calls layers of the original: {alias}, which a copy does not follow; "
            "keep the layer itself in an attribute and call it in forward."
        )
    return twin


def _hidden_weights(network: nn.Module) -> str | None:
    """The name of an entry in the state dict that is neither parameter nor buffer, as packed quantised weights are."""
    known = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    for name, value in network.state_dict(keep_vars=True).items():
        if not name.endswith("_extra_state") and id(value) not in known:
            return str(name)
    return None
