"""What is known of the tensors of a network that runs: the channel that each of their elements belongs to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from metasum.errors import ArchitectureError
from metasum.networks.following.numbers import Numbering, kinds_of

MOST_LOOSE = 2**22  # elements of a parameter that are numbered one by one


class Held(NamedTuple):
    """The channels of a tensor's elements."""

    numbers: Tensor
    """int64, of the tensor's rank; of size 1 along dimensions in which the channel is the same."""
    shape: tuple[int, ...]
    """The tensor's own, 1 where all its values are the same."""

    def varied(self, dimension: int) -> bool:
        return self.numbers.shape[dimension] > 1


class Notes:
    """Every element of every tensor has a channel, a number; 0 is for what stays where it is.

    Args:
        numbering: gets the axes of parameters and buffers.
        names: of the tensors that can be permuted, by `id`.
        constants: tensors whose values are the same whatever the order of channels.
    """

    def __init__(self, numbering: Numbering, names: Mapping[int, Sequence[str]], constants: Iterable[Tensor]) -> None:
        self.numbering = numbering
        self.layers: list[tuple[str, nn.Module]] = []  # that run, the innermost last
        self._names = names
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # with the tensor, so that no other gets its `id`
        self._turned: dict[int, tuple[Tensor, Tensor, tuple[int, ...]]] = {}
        self._constants = {id(tensor): tensor for tensor in constants}

    def is_constant(self, tensor: Tensor) -> bool:
        return id(tensor) in self._constants

    def is_registered(self, tensor: Tensor) -> bool:
        return id(tensor) in self._names

    def note_constant(self, tensor: Tensor) -> None:
        self._known.pop(id(tensor), None)
        self._constants[id(tensor)] = tensor

    def note(self, tensor: Tensor, numbers: Tensor, function: str) -> None:
        """These are the channels of its elements; `numbers` can be of size 1 where they are the same."""
        if self._constants.pop(id(tensor), None) is not None and tensor._is_view():
            raise self.refusal(function)  # what it is a view of has changed, too
        self._known[id(tensor)] = (tensor, _compact(numbers))

    def note_turned(self, tensor: Tensor, weight: Tensor, order: tuple[int, ...]) -> None:
        """A parameter with its dimensions in another order."""
        self._turned[id(tensor)] = (tensor, weight, order)

    def weight(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]] | None:
        """The parameter that a tensor is, and the order of its dimensions; None where it is none."""
        if id(tensor) in self._turned:
            return self._turned[id(tensor)][1:]
        return (tensor, tuple(range(tensor.ndim))) if self.is_registered(tensor) else None

    def numbers(self, tensor: Tensor, function: str) -> Tensor:
        """Of its elements, of size 1 where they are the same; those of a parameter are new.

        Raises:
            ArchitectureError: nobody knows where the tensor comes from; the layer and the function are named.
        """
        if id(tensor) in self._known:
            return _compact(self.numbering.roots(self._known[id(tensor)][1]))
        if self.is_constant(tensor):
            return torch.zeros([1] * tensor.ndim, dtype=torch.long)
        if id(tensor) in self._turned:
            _, weight, order = self._turned[id(tensor)]
            return self.numbers(weight, function).permute(order)
        long = [dimension for dimension, size in enumerate(tensor.shape) if size > 1]
        if not self.is_registered(tensor) or (len(long) > 1 and tensor.numel() > MOST_LOOSE):
            raise self.refusal(function)
        if not long:
            return torch.zeros([1] * tensor.ndim, dtype=torch.long)
        if len(long) > 1:
            if id(tensor) not in self.numbering.loose:
                self.numbering.loose[id(tensor)] = self.numbering.new(tensor.numel()).reshape(tensor.shape)
            return self.numbering.roots(self.numbering.loose[id(tensor)])
        new = self.numbering.axes.get((id(tensor), long[0]))
        if new is None:
            self.numbering.use(id(tensor), long[0], new := self.numbering.new(tensor.shape[long[0]]))
        return self.numbering.roots(new).reshape(tensor.shape)

    def full(self, tensor: Tensor, function: str) -> Tensor:
        """A number for each of its elements, in its shape."""
        return self.numbers(tensor, function).expand(tensor.shape).contiguous()

    def held(self, tensor: Tensor, function: str) -> Held:
        shape = tuple(tensor.shape)
        if self.is_constant(tensor) and tensor.numel():
            shape = tuple(_compact(tensor).shape)
        return Held(self.numbers(tensor, function), shape)

    def along(self, tensor: Tensor, dimension: int, function: str) -> Tensor:
        """The channels along one dimension, `[size]`; in all other dimensions they are the same from here on."""
        numbers = self.numbers(tensor, function).movedim(dimension, 0).flatten(1)
        first = numbers[:, :1]
        self.numbering.join(first.expand_as(numbers), numbers)
        return self.numbering.roots(first.flatten()).expand(tensor.shape[dimension])

    def use(self, tensor: Tensor | None, dimension: int, channels: Tensor, function: str) -> None:
        """A parameter holds these channels along a dimension; constants can only hold what stays."""
        if tensor is None:
            return
        if self.is_registered(tensor):
            self.numbering.use(id(tensor), dimension, channels)
        elif self.is_constant(tensor):
            if _compact(tensor).shape[dimension] > 1:
                self.numbering.fix(channels)
        elif tensor.ndim == 1:
            self.numbering.join(self.full(tensor, function), channels)
        else:
            raise self.refusal(function)

    def spread(self, result: Tensor, dimension: int, channels: Tensor, function: str) -> None:
        """The result's channels are these along one dimension, and the same in all others."""
        shape = [1] * result.ndim
        shape[dimension] = -1
        self.note(result, channels.reshape(shape), function)

    def meet(self, first: Held, second: Held, function: str) -> Held:
        """The channels of what is computed element by element of two tensors, the smaller spread over the other.

        Where one tensor's number is for many channels of the other (a factor for each head, or for all), those become
        a set, which this number goes with. Else, two channels that meet become one.
        """
        rank = max(len(first.shape), len(second.shape))
        a, b = _of_rank(first, rank), _of_rank(second, rank)
        shape = tuple(one if other == 1 else other for one, other in zip(a.shape, b.shape, strict=True))
        over = [d for d in range(rank) if b.shape[d] == 1 and a.varied(d)]  # of a, in each number of b
        under = [d for d in range(rank) if a.shape[d] == 1 and b.varied(d)]
        if over and under:
            raise self.refusal(function)
        if under:
            a, b, over = b, a, under
        wide = [max(sizes) for sizes in zip(a.numbers.shape, b.numbers.shape, strict=True)]
        if not over:
            self.numbering.join(a.numbers.expand(wide), b.numbers.expand(wide))
            return Held(_compact(self.numbering.roots(a.numbers.expand(wide))), shape)
        rest = [d for d in range(rank) if d not in over]
        if b.numbers.any() or any(b.shape[d] > 1 and a.varied(d) for d in rest):
            narrow = [1 if d in over else wide[d] for d in range(rank)]
            self.tie(_rows(a.numbers.expand(wide), over), b.numbers.expand(narrow).flatten())
        return Held(_compact(a.numbers.expand(wide)), shape)

    def tie(self, sets: Tensor, owners: Tensor | None) -> None:
        """Adds a family of sets `[sets, n]`, each of them once."""
        rows = self.numbering.roots(sets).sort(dim=1).values
        if owners is not None:
            rows = torch.cat([rows, self.numbering.roots(owners)[:, None]], dim=1)
        kinds = kinds_of(rows)
        first = torch.full([len(kinds.rows)], len(rows))
        first = first.scatter_reduce_(0, kinds.which, torch.arange(len(rows)), "amin").sort().values
        self.numbering.tie(sets[first], None if owners is None else owners[first])

    def gather(self, numbers: Tensor, dimensions: Sequence[int]) -> Tensor:
        """The channels of what is computed of all elements along dimensions, whatever their order: 1 along these.

        Each set of several channels gives a new one, which goes with it.
        """
        over = [d % numbers.ndim for d in dimensions]
        if all(numbers.shape[d] == 1 for d in over):
            return numbers
        sets = _rows(numbers, over)
        kinds = kinds_of(self.numbering.roots(sets).sort(dim=1).values)
        owners = self.numbering.new(len(kinds.rows)).where(kinds.rows.any(dim=1), 0)[kinds.which]
        self.tie(sets, owners)
        return owners.reshape([1 if d in over else size for d, size in enumerate(numbers.shape)])

    def tie_along(self, numbers: Tensor, dimension: int) -> None:
        """Elements along the dimension are seen together, whatever their order."""
        if numbers.shape[dimension] > 1:
            self.tie(_rows(numbers, [dimension % numbers.ndim]), None)

    def tie_part(self, part: Tensor, whole: Tensor) -> None:
        """Where a part holds some channels more often than others, what is done to these is not done to those.

        Args:
            part, whole: a number for each element.
        """
        roots = [self.numbering.roots(numbers).flatten() for numbers in (part, whole)]
        count = max(int(own.max()) for own in roots) + 1
        here, there = (torch.bincount(own, minlength=count) for own in roots)
        here[0] = there[0] = 0  # what stays
        scale = len(roots[0]) + 1
        kinds = kinds_of(there * scale + here)
        if int((kinds.rows >= scale).sum()) > 1:
            for number in (kinds.rows % scale).nonzero().flatten().tolist():
                self.numbering.tie((kinds.which == number).nonzero().T)

    def refusal(self, function: str) -> ArchitectureError:
        name, layer = self.layers[-1] if self.layers else ("", None)
        where = f"{name!r} ({type(layer).__name__})" if layer is not None and name else "the network's own code"
        return ArchitectureError(f"it is not known what {where} does to channels (in {function}).")


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in lists, tuples and dictionaries, in their order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _compact(tensor: Tensor) -> Tensor:
    """With the dimensions cut to 1 along which nothing changes."""
    for dimension, size in enumerate(tensor.shape):
        first = tensor.narrow(dimension, 0, min(size, 1))
        if size > 1 and (tensor.stride(dimension) == 0 or bool((tensor == first).all())):
            tensor = first
    return tensor


def _rows(numbers: Tensor, dimensions: Sequence[int]) -> Tensor:
    """One row of all that is along these dimensions, for each place in the others, in their order."""
    rest = [d for d in range(numbers.ndim) if d not in dimensions]
    size = math.prod(numbers.shape[d] for d in dimensions)
    return numbers.permute(*rest, *dimensions).reshape(-1, size)


def _of_rank(held: Held, rank: int) -> Held:
    """With dimensions of size 1 before its own."""
    more = rank - len(held.shape)
    return Held(held.numbers.reshape([1] * more + list(held.numbers.shape)), (1,) * more + held.shape)
