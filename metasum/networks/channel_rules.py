"""What PyTorch's functions do to channels: the rules that `channels.py` follows them by.

Every element of every tensor has a channel, a number; 0 is for what must stay where it is. A convolution or linear
layer starts new ones, normalisation and activations carry them on, reshaping moves them, an addition makes two one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from metasum.errors import ArchitectureError
from metasum.networks.channel_numbers import Numbering

# Names of functions of torch, torch.nn.functional and Tensor, without underscores at their ends.
# These move elements and change none, so that the same call moves their numbers.
MOVING = {
    "flatten", "reshape", "view", "permute", "transpose", "movedim", "swapaxes", "cat", "concat", "stack", "chunk",
    "split", "unbind", "narrow", "select", "getitem", "squeeze", "unsqueeze", "unflatten", "expand", "repeat",
    "flip", "contiguous", "clone", "detach", "channel_shuffle",
}  # fmt: skip
ELEMENTWISE = {
    "relu", "relu6", "leaky_relu", "gelu", "silu", "elu", "selu", "celu", "mish", "tanh", "sigmoid",
    "hardtanh", "hardswish", "hardsigmoid", "softplus", "logsigmoid", "softsign", "dropout", "dropout1d",
    "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "to", "float", "double", "add", "iadd", "radd",
    "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "truediv", "itruediv", "neg", "abs", "exp", "sqrt",
    "square", "pow", "clamp",
}  # fmt: skip
OVER_PIXELS = {
    "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "interpolate",
}  # fmt: skip
NORMALISING = {"batch_norm", "instance_norm", "group_norm", "layer_norm"}
REDUCING = {"mean", "sum", "amax", "amin"}


class Following(TorchFunctionMode):
    """While it is entered, the channels of every tensor that PyTorch's functions return are noted.

    Args:
        numbering: gets the axes.
        names: of parameters and buffers, by `id`.
        images: whose channels stay where they are.
    """

    def __init__(self, numbering: Numbering, names: Mapping[int, Sequence[str]], images: Any) -> None:
        super().__init__()
        self._numbering, self._names = numbering, names
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # with the tensor, so that no other gets its `id`
        for tensor in tree_leaves(images):
            if isinstance(tensor, Tensor):
                self._note(tensor, torch.zeros(tensor.shape, dtype=torch.long))
        self._layers: list[tuple[str, nn.Module]] = []

    @contextmanager
    def naming_layers(self, network: nn.Module) -> Iterator[None]:
        """Within the block errors name the layer that runs."""
        hooks = list[RemovableHandle]()
        names = {module: name for name, module in network.named_modules()}

        def enter(module: nn.Module, inputs: object) -> None:
            self._layers.append((names[module], module))

        def leave(module: nn.Module, inputs: object, outputs: object) -> None:
            self._layers.pop()

        for module in names:
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def fix(self, outputs: Any) -> None:
        """Channels of what the network returns stay where they are."""
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                channels = self._channels(output, "the output")
                self._numbering.join(channels, torch.zeros_like(channels))

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self._follow(function, args, kwargs, result)
        return result

    def _follow(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        name = getattr(function, "__name__", str(function)).strip("_")
        if name in ("conv1d", "conv2d", "conv3d"):
            self._convolution(result, *args, **kwargs)
        elif name == "linear":
            self._linear(result, *args, **kwargs)
        elif name in NORMALISING:
            self._normalisation(name, result, *args, **kwargs)
        elif name in MOVING:
            of = lambda leaf: self._channels(leaf, name).contiguous() if isinstance(leaf, Tensor) else leaf  # noqa: E731
            moved = function(*tree_map(of, tuple(args)), **tree_map(of, dict(kwargs)))
            for tensor, channels in zip(tree_leaves(result), tree_leaves(moved), strict=True):
                self._note(tensor, channels)
        elif name in ELEMENTWISE:
            self._together(result, name, args, kwargs)
        elif name in OVER_PIXELS:
            channels = self._channels(args[0], name)
            rows = self._constant(channels, tuple(range(2, channels.ndim)), name)
            self._note(result, rows.expand(result.shape))
        elif name in REDUCING:
            channels = self._channels(args[0], name)
            given = kwargs.get("dim", args[1] if len(args) > 1 else None)
            dimensions = range(channels.ndim) if given is None else [given] if isinstance(given, int) else given
            self._note(result, self._constant(channels, tuple(dimensions), name).reshape(result.shape))
        else:
            raise self._refusal(name)

    def _convolution(
        self, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **others: Any
    ) -> None:
        own = self._along(input, 1, "convolution")
        parts, inputs, outputs = len(own) // weight.shape[1], weight.shape[1], len(weight)
        if parts > 1 and inputs == 1:  # each channel by itself
            new = own.repeat_interleave(outputs // parts)
        else:
            new = self._numbering.new(outputs)
            if parts > 1:  # all parts read their channels by one axis
                self._numbering.join(own, torch.zeros_like(own))
                self._numbering.sets += new.chunk(parts)
            self._use(weight, 1, own[:inputs], "convolution")
        self._use(weight, 0, new, "convolution")
        self._use(bias, 0, new, "convolution")
        self._spread(result, 1, new)

    def _linear(self, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        channels = self._channels(input, "linear")
        if _is_constant(channels, tuple(range(channels.ndim - 1))):
            new = self._numbering.new(len(weight))
            self._use(weight, 1, self._along(input, -1, "linear"), "linear")
            self._spread(result, -1, new)
        else:  # over the pixels of each channel
            new = torch.zeros(len(weight), dtype=torch.long)
            self._use(weight, 1, torch.zeros(weight.shape[1], dtype=torch.long), "linear")
            self._note(result, self._constant(channels, -1, "linear").expand(result.shape))
        self._use(weight, 0, new, "linear")
        self._use(bias, 0, new, "linear")

    def _normalisation(self, name: str, result: Tensor, input: Tensor, *rest: Any, **others: Any) -> None:
        """Batch, instance, group and layer norm; all tensors but the first are vectors beside the channels."""
        dimension = -1 if name == "layer_norm" else 1
        own = self._along(input, dimension, name)
        parts = len(own)
        if name == "layer_norm":
            parts = 1
            if len(rest[0] if rest else others["normalized_shape"]) > 1:
                raise self._refusal(name)
        elif name == "group_norm":
            parts = rest[0] if rest else others["num_groups"]
        if parts < len(own):  # several channels are normalised together
            self._numbering.sets += own.chunk(parts)
        for tensor in tree_leaves((rest, others)):
            if isinstance(tensor, Tensor):
                self._use(tensor, 0, own, name)
        self._spread(result, dimension, own)

    def _together(self, result: Tensor, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Elements that are computed from one another are of one channel."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.numel() > 1]
        own = [self._channels(tensor, name).expand(result.shape) for tensor in tensors]
        for other in own[1:]:
            if not torch.equal(own[0], other):
                self._numbering.join(own[0], other)
        self._note(result, own[0] if own else torch.zeros(result.shape, dtype=torch.long))

    def _channels(self, tensor: Tensor, function: str) -> Tensor:
        """The numbers of a tensor's elements, in its shape; a parameter that is a vector starts new ones."""
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        long = [dimension for dimension, size in enumerate(tensor.shape) if size > 1]
        if id(tensor) not in self._names or len(long) > 1:
            raise self._refusal(function)
        if not long:
            return torch.zeros(tensor.shape, dtype=torch.long)
        new = self._numbering.axes.get((id(tensor), long[0]))
        if new is None:
            self._numbering.use(tensor, long[0], new := self._numbering.new(tensor.shape[long[0]]))
        return new.reshape(tensor.shape)

    def _along(self, tensor: Tensor, dimension: int, function: str) -> Tensor:
        """The channels along one dimension, which must be the same in all others."""
        channels = self._channels(tensor, function)
        others = tuple(d for d in range(channels.ndim) if d != dimension % channels.ndim)
        return self._constant(channels, others, function).flatten()

    def _constant(self, channels: Tensor, dimensions: int | tuple[int, ...], function: str) -> Tensor:
        """The channels with these dimensions cut to 1, along which nothing may change."""
        channels = self._numbering.roots(channels)
        if not _is_constant(channels, dimensions):
            raise self._refusal(function)
        return channels.amin(dimensions, keepdim=True)

    def _use(self, tensor: Tensor | None, dimension: int, channels: Tensor, function: str) -> None:
        if tensor is not None and id(tensor) not in self._names:
            raise self._refusal(function)
        self._numbering.use(tensor, dimension, channels)

    def _spread(self, result: Tensor, dimension: int, channels: Tensor) -> None:
        shape = [1] * result.ndim
        shape[dimension] = -1
        self._note(result, channels.reshape(shape).expand(result.shape))

    def _note(self, tensor: Tensor, channels: Tensor) -> None:
        self._known[id(tensor)] = (tensor, channels)

    def _refusal(self, function: str) -> ArchitectureError:
        name, layer = self._layers[-1] if self._layers else ("", None)
        where = f"{name!r} ({type(layer).__name__})" if layer is not None and name else "the network's own code"
        return ArchitectureError(f"it is not known what {where} does to channels (in {function}).")


def _is_constant(channels: Tensor, dimensions: int | tuple[int, ...]) -> bool:
    return torch.equal(channels.amin(dimensions), channels.amax(dimensions))
