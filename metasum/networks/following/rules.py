"""What PyTorch's functions do to channels.

Layers start new ones (`layers.py`), activations carry them on, reshaping moves them, an addition makes two one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metasum.networks.following import functions, layers
from metasum.networks.following.call import Call
from metasum.networks.following.notes import Notes, tensors_in

Rule = Callable[[Notes, Call], None]


def same(notes: Notes, call: Call) -> None:
    if call.result is call.args[0]:
        return
    notes.note(call.result, notes.numbers(call.args[0], call.name), call.name)


def move(notes: Notes, call: Call) -> None:
    """The same call moves the numbers."""
    given = tensors_in((call.args, call.kwargs))
    if call.name in functions.TURNING and (weight := notes.weight(given[0])) is not None and given[0].ndim > 1:
        notes.note_turned(call.result, weight[0], _turned(call, weight[1]))
        return
    if call.name in functions.INDEXING:
        first, *rest = call.args
        moved = call.function(
            notes.full(first, call.name), *_where(notes, call, rest), **_where(notes, call, call.kwargs)
        )
        given = [first]
    else:
        of = lambda leaf: notes.full(leaf, call.name) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        moved = call.function(*tree_map(of, tuple(call.args)), **tree_map(of, call.kwargs))
    for tensor, numbers in zip(tensors_in(call.result), tensors_in(moved), strict=True):
        notes.note(tensor, numbers, call.name)
        if len(given) == 1:
            notes.tie_part(numbers, notes.full(given[0], call.name))


def _where(notes: Notes, call: Call, index: Any) -> Any:
    """The same index or mask for the numbers; it must not depend on channels."""
    for tensor in tensors_in(index):
        if not notes.is_constant(tensor):
            raise notes.refusal(call.name)
    return tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, index)


def _turned(call: Call, order: tuple[int, ...]) -> tuple[int, ...]:
    """Which of the parameter's dimensions is where in the result."""
    first, *rest = call.args
    sizes = torch.empty([2 + dimension for dimension in range(first.ndim)])
    return tuple(order[size - 2] for size in call.function(sizes, *rest, **call.kwargs).shape)


def elementwise(notes: Notes, call: Call) -> None:
    """Elements that are computed from one another."""
    first, *others = [notes.held(tensor, call.name) for tensor in tensors_in((call.args, call.kwargs))]
    for other in others:
        first = notes.meet(first, other, call.name)
    notes.note(call.result, _beside(first.numbers, call.result.ndim), call.name)


def _beside(numbers: Tensor, rank: int) -> Tensor:
    return numbers.reshape([1] * (rank - numbers.ndim) + list(numbers.shape))


def assign(notes: Notes, call: Call) -> None:
    """`target[index] = value`, after which the target is no constant."""
    target, index, value = call.args
    fixed = not isinstance(value, Tensor) or notes.is_constant(value)
    if isinstance(index, Tensor) and index.shape == target.shape and not notes.is_constant(index):  # element by element
        if notes.is_constant(target) or not fixed or (isinstance(value, Tensor) and value.numel() > 1):
            raise notes.refusal(call.name)
        notes.meet(notes.held(target, call.name), notes.held(index, call.name), call.name)
        return
    index = _where(notes, call, index)
    if fixed and notes.is_constant(target):
        return
    before = notes.full(target, call.name)
    if not fixed:
        if target._is_view():
            raise notes.refusal(call.name)  # what it is a view of has changed, too
        numbers = before.clone()
        numbers[index] = notes.numbers(value, call.name)
        notes.note(target, numbers, call.name)
    elif isinstance(value, Tensor) and value.numel() > 1:
        notes.numbering.fix(before[index])
    notes.tie_part(before[index], before)


def over_pixels(notes: Notes, call: Call) -> None:
    numbers = notes.numbers(call.args[0], call.name)
    digit = call.name[-2]
    count = int(digit) if digit.isdigit() else numbers.ndim - 2
    if any(size > 1 for size in numbers.shape[-count:]) or not isinstance(call.result, Tensor):
        raise notes.refusal(call.name)
    notes.note(call.result, numbers, call.name)


def pad(notes: Notes, call: Call) -> None:
    """Beside channels stand new ones of zeros; beside pixels, more of the same channel."""
    numbers, shape = notes.numbers(call.args[0], call.name), call.result.shape
    sizes = call.argument(1, "pad")
    widths = [(0, 0)] * (len(shape) - len(sizes) // 2) + list(zip(sizes[-2::-2], sizes[::-2], strict=True))
    for dimension, (before, after) in enumerate(widths):
        if numbers.shape[dimension] == 1:
            continue
        if call.argument(2, "mode", "constant") != "constant" and (before or after):
            raise notes.refusal(call.name)
        around = [1 if d == dimension else size for d, size in enumerate(numbers.shape)]
        new = [
            notes.numbering.new(1).reshape([1] * len(around)).expand(around)
            for _ in range(max(before, 0) + max(after, 0))
        ]
        kept = numbers.narrow(dimension, max(-before, 0), numbers.shape[dimension] + min(before, 0) + min(after, 0))
        parts = [*new[: max(before, 0)], kept, *new[max(before, 0) :]]
        numbers = torch.cat(parts, dim=dimension)
        notes.tie_part(numbers, notes.numbers(call.args[0], call.name))
    notes.note(call.result, numbers, call.name)


def reduce(notes: Notes, call: Call) -> None:
    numbers = notes.numbers(call.args[0], call.name)
    given = call.argument(functions.REDUCING[call.name], "dim", call.kwargs.get("axis"))
    dimensions = range(numbers.ndim) if given is None else [given] if isinstance(given, int) else given
    if isinstance(given, bool | Tensor) or not all(isinstance(d, int) for d in dimensions):
        raise notes.refusal(call.name)  # another function of that name
    found, result = notes.gather(numbers, tuple(dimensions)), tensors_in(call.result)[0]
    if result.ndim != found.ndim:
        over = [d % found.ndim for d in dimensions]
        found = found.reshape([size for d, size in enumerate(found.shape) if d not in over])
    notes.note(result, found, call.name)  # and nothing of where the largest are


def extreme(notes: Notes, call: Call) -> None:
    """`max` and `min`: of two tensors, or along a dimension."""
    (elementwise if isinstance(call.argument(1, "other"), Tensor) else reduce)(notes, call)


def along_a_dimension(notes: Notes, call: Call) -> None:
    numbers = notes.numbers(call.args[0], call.name)
    dimension = call.argument(functions.ALONG_A_DIMENSION[call.name], "dim", 1 if call.name == "normalize" else None)
    if not isinstance(dimension, int):
        raise notes.refusal(call.name)
    notes.tie_along(numbers, dimension)
    notes.note(call.result, numbers, call.name)


RULES: dict[str, Rule] = {
    **dict.fromkeys(functions.SAME, same),
    **dict.fromkeys(functions.MOVING, move),
    **dict.fromkeys(functions.ELEMENTWISE, elementwise),
    **dict.fromkeys(functions.OVER_PIXELS, over_pixels),
    **dict.fromkeys(functions.REDUCING, reduce),
    **dict.fromkeys(functions.ALONG_A_DIMENSION, along_a_dimension),
    **dict.fromkeys(functions.NORMALISING, layers.normalise),
    **dict.fromkeys(functions.NORMALISING_THE_LAST, layers.normalise_the_last),
    **dict.fromkeys(functions.CONVOLUTIONS, layers.convolution),
    **dict.fromkeys(functions.TRANSPOSED_CONVOLUTIONS, layers.transposed_convolution),
    **dict.fromkeys(("matmul", "bmm", "mm"), layers.matmul),
    "max": extreme,
    "min": extreme,
    "pad": pad,
    "prelu": layers.prelu,
    "linear": layers.linear,
    "embedding": layers.embedding,
    "embedding_bag": layers.embedding,
}
"""By the name of the function."""
