"""Methods of merging on networks and parameter sets in memory, on any device: the bits that files give.

A method's arithmetic is the same there, and PyTorch's threads rest, since how many there are decides in which order a
long sum is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metasum.errors import UsageError
from metasum.merging.endpoints import Endpoint, NetworkMethod, WideningMethod
from metasum.merging.for_tasks import TaskMethod
from metasum.merging.kinds import statistics_among
from metasum.merging.method import Method
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors
from metasum.types import Parameters
from metasum.weights.composition import average_
from metasum.weights.parameters import check_same_architecture, parameters_of, with_parameters
from metasum.weights.shared_parts import check_equal, is_weight

SPAN = 1 << 17  # entries that are merged at once on a processor, as of files: they stay in a core's cache


def merged_network(method: Method, endpoints: Sequence[Endpoint], initial: Parameters) -> nn.Module:
    """A new network, what `method` makes of the endpoints', in eval mode.

    Its statistics are the first network's, or of a method that makes another architecture every network's own. See
    `merge` for the arguments, and for what is raised.
    """
    if isinstance(method, WideningMethod):
        method.check(len(endpoints))
        return method.network([endpoint.network for endpoint in endpoints])
    return with_parameters(endpoints[0].network, merge(method, endpoints, initial))


def merged_tasks(method: Method, endpoints: Sequence[Endpoint], initial: Parameters) -> list[nn.Module]:
    """For each endpoint a new network in eval mode: what `method` makes of all, with what this one keeps for itself.

    Statistics are its own network's. See `merge` for the arguments (of θ_0, what is kept is not read), and for what is
    raised.
    """
    if (reason := method.against_own_heads()) is not None:
        raise UsageError(f"--heads own: {method.name} {reason}.")
    with_base = {name: own for name, own in initial.items() if name not in endpoints[0].kept}
    if isinstance(method, TaskMethod):
        return networks_for_tasks(method, endpoints, with_base)
    with torch.autocast(next(endpoints[0].network.parameters()).device.type, enabled=False):
        ready = method.prepared(endpoints) if isinstance(method, NetworkMethod) else endpoints
    merged = merge(method, ready, with_base, prepared=True)
    return [with_parameters(end.network, {**parameters_of(end.network), **merged}) for end in ready]


def merge(
    method: Method, endpoints: Sequence[Endpoint], initial: Parameters, *, prepared: bool = False
) -> dict[str, Tensor]:
    """The merged parameters of finished networks, detached.

    Args:
        method: any.
        endpoints: the networks, on one device, with images where the method needs them.
        initial: θ_0, their common start; read where the method needs it.
        prepared: whether the networks are as `NetworkMethod.prepared` gives them.

    Raises:
        UsageError: the method does not merge so many, or needs images that are not there.
        ArchitectureError: the networks differ; the first difference is named.
    """
    sets = _checked(method, endpoints, initial)
    with torch.autocast(next(iter(sets[0].values())).device.type, enabled=False):  # sums need all their digits
        if isinstance(method, NetworkMethod):
            integers = _integers(sets)
            ready = endpoints if prepared else method.prepared(endpoints)
            return {**method.merge(ready, initial), **{name: sets[0][name].clone() for name in integers}}
        if isinstance(method, TensorMethod):
            return merge_parameters(method, sets, initial if method.needs_base else None)
    if isinstance(method, WideningMethod):
        raise UsageError(f"{method.name} makes a network of another architecture, not parameters for this one.")
    method.check_one_network()
    raise UsageError(f"{method.name} is neither a NetworkMethod nor a TensorMethod: it says no arithmetic.")


def networks_for_tasks(method: TaskMethod, endpoints: Sequence[Endpoint], initial: Parameters) -> list[nn.Module]:
    """For each endpoint a new network in eval mode, which answers for its task; see `merge` for arguments and errors.

    Statistics are its own network's, and so is what it keeps.
    """
    _integers(sets := _checked(method, endpoints, initial))
    with torch.no_grad(), torch.autocast(next(iter(sets[0].values())).device.type, enabled=False):
        return method.networks(endpoints, initial)


def _checked(method: Method, endpoints: Sequence[Endpoint], initial: Parameters) -> list[dict[str, Tensor]]:
    """The networks' parameters; raises where the method cannot merge such networks."""
    method.check(len(endpoints))
    sets = [endpoint.parameters for endpoint in endpoints]
    check_same_architecture([*([initial] if method.needs_base else []), *sets])
    if method.needs_images and any(isinstance(end.images, Sized) and not len(end.images) for end in endpoints):
        raise UsageError(f"{method.name} looks at images of each network's dataset, and there are none of one.")
    method.check_layers(sets[0])
    return sets


def _integers(sets: Sequence[Parameters]) -> list[str]:
    """Names of integer parameters, which all have alike; raises ArchitectureError where they have not."""
    integers = [name for name, tensor in sets[0].items() if not is_weight(tensor)]
    check_equal(sets, integers, "of integers, which cannot be merged")
    return integers


def merge_parameters(
    method: TensorMethod, sets: Sequence[Parameters], base: Parameters | None = None
) -> dict[str, Tensor]:
    """The merged tensors, detached and new, in the dtypes of the first set.

    Args:
        method: one that needs nothing but tensors.
        sets: parameters, or whole states: statistics of batch norms are averaged, counters are the first set's.
        base: θ_0, for a method that needs it.

    Raises:
        UsageError: the method does not merge so many.
        ArchitectureError: the sets differ in architecture or in integers; the first difference is named.
    """
    method.check(len(sets))
    check_same_architecture([*([base] if base is not None else []), *sets])
    integers = [name for name, tensor in sets[0].items() if not is_weight(tensor) and tensor.numel() > 1]
    check_equal(sets, integers, "of integers, which cannot be merged")
    floats = {name: tensor for name, tensor in sets[0].items() if tensor.is_floating_point() and tensor.numel()}
    statistics = statistics_among({name: tuple(tensor.shape) for name, tensor in floats.items()})
    tensors = InMemory(sets, base, [name for name in floats if name not in statistics], whole=method.needs_whole)
    with torch.no_grad(), _one_thread():
        formula = method.formula(tensors)
        merged = {part.name: tensors.merged(part, formula) for part in tensors.parts}
        merged |= {name: average_(tensors.chunk(_part(name, floats[name])).values) for name in statistics}
        return {
            name: merged[name].view(tensor.shape).to(tensor.dtype) if name in merged else tensor.detach().clone()
            for name, tensor in sets[0].items()
        }


def _part(name: str, tensor: Tensor) -> Part:
    return Part(name, tuple(tensor.shape), torch.float64 if tensor.dtype == torch.float64 else torch.float32)


class InMemory(Tensors):
    """Some of the tensors of parameter sets in memory.

    Args:
        sets: of one architecture.
        base: θ_0, for what works on differences.
        names: of the tensors, which hold floating-point numbers.
        whole: whether a tensor has to be one chunk; others are cut where that is quicker.
    """

    def __init__(
        self,
        sets: Sequence[Parameters],
        base: Parameters | None,
        names: Iterable[str],
        *,
        whole: Callable[[Part], bool] = lambda part: True,
    ) -> None:
        self.parts, self.count = [_part(name, sets[0][name]) for name in names], len(sets)
        self._sets, self._base, self._whole = sets, base, whole

    def show(self, see: Callable[[Chunk], None], parts: Sequence[Part] | None = None) -> None:
        for part in self.parts if parts is None else parts:
            for chunk in self._chunks(part):
                see(chunk)

    def chunk(self, part: Part) -> Chunk:
        """All of a tensor, copied."""
        return next(self._chunks(part, size=part.entries))

    def merged(self, part: Part, formula: Formula) -> Tensor:
        """What a formula makes of all of a tensor, `[entries]`."""
        found = [formula(chunk) for chunk in self._chunks(part)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _chunks(self, part: Part, size: int | None = None) -> Iterator[Chunk]:
        """Copies of neighbouring entries, `size` at once [default: as many as is best]."""
        flat = [own[part.name].detach().flatten() for own in self._sets]
        base = None if self._base is None else self._base[part.name].detach().flatten()
        if size is None:
            size = part.entries if self._whole(part) or flat[0].device.type != "cpu" else SPAN
        for start in range(0, part.entries, size):
            here = slice(start, start + size)
            values = [own[here].to(part.dtype, copy=True) for own in flat]
            yield Chunk(part, start, values, None if base is None else base[here].to(part.dtype))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
