"""Following the channels of every tensor while a network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from metasum.networks.following import attention, functions
from metasum.networks.following.call import Call
from metasum.networks.following.notes import Notes, tensors_in
from metasum.networks.following.rules import RULES, assign

SPELT_OUT: dict[str, Callable[..., Tensor]] = {
    "scaled_dot_product_attention": attention.scaled_dot_product,
    "einsum": attention.einsum,
    "glu": attention.gated,
}


class Following(TorchFunctionMode):
    """While it is entered, the channels of every tensor that PyTorch's functions return are noted.

    A function without a rule, and a number that is read from channels into Python, raise an ArchitectureError.
    """

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self._notes = notes

    @contextmanager
    def naming_layers(self, network: nn.Module) -> Iterator[None]:
        """Within the block errors name the layer that runs."""
        hooks = list[RemovableHandle]()
        names = {module: name for name, module in network.named_modules()}
        layers = self._notes.layers

        def enter(module: nn.Module, inputs: object) -> None:
            layers.append((names[module], module))

        def leave(module: nn.Module, inputs: object, outputs: object) -> None:
            layers.pop()

        for module in names:
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = tensors_in((args, kwargs))
        name = _name(function)
        if name == "setitem":
            assign(self._notes, Call(name, function, args, kwargs, None))
        result = function(*args, **kwargs)
        found = tensors_in(result)
        if not found:
            if name != "setitem" and name not in functions.FACTS:
                self._read(name, given)
        elif name in functions.SHAPED or all(self._notes.is_constant(tensor) for tensor in given):
            for tensor in found:
                self._notes.note_constant(tensor)
        else:
            self._follow(Call(name, function, args, kwargs, result))
        return result

    def _read(self, name: str, given: Sequence[Tensor]) -> None:
        """What Python reads of tensors: it cannot depend on the order of channels."""
        for tensor in given:
            if self._notes.numbers(tensor, name).any():
                raise self._notes.refusal(name)

    def _follow(self, call: Call) -> None:
        if (spelt_out := SPELT_OUT.get(call.name)) is not None:
            with self:
                twin = spelt_out(*call.args, **call.kwargs)
            self._notes.note(call.result, self._notes.numbers(twin, call.name), call.name)
        elif call.name == "multi_head_attention_forward":
            with self:
                twin, scores = attention.multi_head(*call.args, **call.kwargs)
            result, weights = call.result
            self._notes.note(result, self._notes.numbers(twin, call.name), call.name)
            if weights is not None:
                numbers = self._notes.numbers(scores, call.name)
                if weights.ndim < scores.ndim:  # their mean over heads, which does not depend on the heads' order
                    numbers = numbers.new_zeros([1] * weights.ndim)
                self._notes.note(weights, numbers, call.name)
        elif (rule := RULES.get(call.name)) is None or call.kwargs.get("out") is not None:
            raise self._notes.refusal(call.name)
        else:
            rule(self._notes, call)


def _name(function: Callable[..., Any]) -> str:
    """Without underscores around it; of an attribute, the attribute's."""
    name = getattr(function, "__name__", str(function)).strip("_")
    owner = getattr(getattr(function, "__self__", None), "__name__", None)
    return owner.strip("_") if name in ("get", "set") and isinstance(owner, str) else name
