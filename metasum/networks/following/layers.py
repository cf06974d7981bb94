"""What layers with weights do to channels.

Convolutions and linear layers start new ones, normalisation carries them on.
Attention scores belong to a head: a channel that goes with the head's dimensions as a whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metasum.networks.following.call import Call
from metasum.networks.following.notes import Held, Notes, tensors_in


def normalise(notes: Notes, call: Call) -> None:
    """Batch, instance and group norm; all tensors but the first are vectors beside the channels."""
    own = notes.along(call.args[0], 1, call.name)
    if call.name == "group_norm" and (parts := call.argument(1, "num_groups")) < len(own):
        notes.tie(own.reshape(parts, -1), None)  # several channels are normalised together
    for tensor in tensors_in((call.args[1:], call.kwargs)):
        notes.use(tensor, 0, own, call.name)
    notes.spread(call.result, 1, own, call.name)


def normalise_the_last(notes: Notes, call: Call) -> None:
    """Layer norm: each element with all along the last dimension, times a weight and plus a bias."""
    if len(call.argument(1, "normalized_shape")) > 1:
        raise notes.refusal(call.name)
    found = notes.held(call.args[0], call.name)
    notes.tie_along(found.numbers, -1)
    for tensor in tensors_in((call.args[1:], call.kwargs)):
        found = notes.meet(found, notes.held(tensor, call.name), call.name)
    notes.note(call.result, found.numbers, call.name)


def prelu(notes: Notes, call: Call) -> None:
    numbers, weight = notes.numbers(call.args[0], call.name), call.args[1]
    if weight.numel() > 1:
        notes.use(weight, 0, notes.along(call.args[0], 1, call.name), call.name)
    notes.note(call.result, notes.numbering.roots(numbers), call.name)


def convolution(notes: Notes, call: Call) -> None:
    input, weight, bias = call.args[0], call.argument(1, "weight"), call.argument(2, "bias")
    dimension = input.ndim - weight.ndim + 1
    own = notes.along(input, dimension, call.name)
    inputs, outputs = weight.shape[1], len(weight)
    parts = len(own) // inputs
    if parts == 1:
        new = notes.numbering.new(outputs)
        notes.use(weight, 1, own, call.name)
    elif inputs == 1:  # each channel by itself
        new = own.repeat_interleave(outputs // parts)
    else:
        new = _in_parts(notes, weight, own.reshape(parts, inputs), call.name)
    notes.use(weight, 0, new, call.name)
    notes.use(bias, 0, new, call.name)
    notes.spread(call.result, dimension, new, call.name)


def _in_parts(notes: Notes, weight: Tensor, own: Tensor, function: str) -> Tensor:
    """A grouped convolution: all parts read their channels by one axis, so that these move alike in all of them."""
    parts, inputs = own.shape
    places, which = notes.numbering.new(inputs), notes.numbering.new(parts)
    new = notes.numbering.new(len(weight))
    notes.use(weight, 1, places, function)
    notes.numbering.tie(own.T, places)
    notes.numbering.tie(own, which)
    notes.numbering.tie(new.reshape(parts, -1), which)
    return new


def transposed_convolution(notes: Notes, call: Call) -> None:
    input, weight, bias = call.args[0], call.argument(1, "weight"), call.argument(2, "bias")
    if call.argument(6, "groups", 1) != 1:
        raise notes.refusal(call.name)
    dimension = input.ndim - weight.ndim + 1
    notes.use(weight, 0, notes.along(input, dimension, call.name), call.name)
    new = notes.numbering.new(weight.shape[1])
    notes.use(weight, 1, new, call.name)
    notes.use(bias, 0, new, call.name)
    notes.spread(call.result, dimension, new, call.name)


def linear(notes: Notes, call: Call) -> None:
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    if (known := notes.weight(weight)) is None:
        raise notes.refusal(call.name)
    _linear(notes, call, *known, bias)


def _linear(notes: Notes, call: Call, weight: Tensor, order: tuple[int, ...], bias: Tensor | None) -> None:
    """`weight`, with its dimensions in that order, is `[outputs, inputs]`."""
    outward, inward = order
    numbers, count = notes.numbers(call.args[0], call.name), weight.shape[outward]
    if numbers.shape[-1] == 1 < numbers.numel():  # over the pixels of each channel
        new = torch.zeros(count, dtype=torch.long)
        notes.use(weight, inward, torch.zeros(weight.shape[inward], dtype=torch.long), call.name)
        notes.note(call.result, numbers, call.name)
    else:
        new = notes.numbering.new(count)
        notes.use(weight, inward, notes.along(call.args[0], -1, call.name), call.name)
        notes.spread(call.result, -1, new, call.name)
    notes.use(weight, outward, new, call.name)
    notes.use(bias, 0, new, call.name)


def embedding(notes: Notes, call: Call) -> None:
    """Rows of a table, whose columns are channels; which rows they are (tokens, places) depends on no channel.

    The table's rows stay where they are, and so do the outputs of a linear layer that has the table as its weight.
    """
    index, table = call.args[0], call.argument(1, "weight")
    known = notes.weight(table)
    weighed = call.argument(8, "per_sample_weights") if call.name == "embedding_bag" else None
    if known is None or notes.numbers(index, call.name).any():
        raise notes.refusal(call.name)
    weight, (rows, columns) = known
    new = notes.numbering.new(weight.shape[columns])
    notes.use(weight, rows, torch.zeros(weight.shape[rows], dtype=torch.long), call.name)
    notes.use(weight, columns, new, call.name)
    if weighed is not None and notes.numbers(weighed, call.name).any():
        raise notes.refusal(call.name)
    notes.spread(call.result, -1, new, call.name)


def matmul(notes: Notes, call: Call) -> None:
    """With a parameter it is a linear layer. Else it sums over what two tensors share: channels, or something else."""
    first, second = call.args[0], call.argument(1, "other")
    if (known := notes.weight(second)) is not None and second.ndim == 2:
        weight, order = known
        _linear(notes, call, weight, order[::-1], None)
        return
    if first.ndim < 2 or second.ndim < 2:
        raise notes.refusal(call.name)
    a, b = notes.held(first, call.name), notes.held(second, call.name)
    b = Held(b.numbers.mT, (*b.shape[:-2], b.shape[-1], b.shape[-2]))  # [..., m, k]
    if a.varied(-1) or b.varied(-1):
        if a.varied(-2) or b.varied(-2):
            raise notes.refusal(call.name)
        one, other = (Held(h.numbers.squeeze(-2), (*h.shape[:-2], h.shape[-1])) for h in (a, b))
        found = notes.meet(one, other, call.name)
        notes.note(call.result, notes.gather(found.numbers, [-1]).unsqueeze(-1), call.name)
        return
    a = Held(a.numbers, (*a.shape[:-1], 1))
    b = Held(b.numbers.mT, (*b.shape[:-2], 1, b.shape[-2]))
    notes.note(call.result, notes.meet(a, b, call.name).numbers, call.name)
