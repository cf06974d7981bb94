"""Methods whose result is a network for each task: whoever asks has to know which task an input is of. No merges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from metasum.merging.endpoints import Endpoint
from metasum.merging.method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.merging.tensors import Chunk, Tensors
    from metasum.types import Parameters


class TaskMethod(Method, ABC):
    """A method that gives each task a network of its own, made of what is common and of little more for each.

    It shows what could be had if the task were known at test, and is an anchor for merges, none of them: tables say so.
    It merges no files.
    """

    knows_task = True
    fewest = 1

    @abstractmethod
    def networks(self, endpoints: Sequence[Endpoint], initial: Parameters) -> list[nn.Module]:
        """A new network for each endpoint, in eval mode, with its own statistics and with what is kept of it.

        Called through `metasum.merging.memory.networks_for_tasks`, which checks the facts.

        Args:
            endpoints: one or more networks of one architecture.
            initial: θ_0, where the method needs it.
        """


class MaskingMethod(TaskMethod):
    """θ_0 + what of one common vector is each task's: common is the vector, a task's own a mask of one bit an entry.

    The networks that come out are whole ones; what would be stored of them is θ_0, the vector and the masks.
    """

    needs_base = True

    @abstractmethod
    def own_parts(self, tensors: Tensors) -> Callable[[Chunk], list[Tensor]]:
        """From a chunk to each task's difference from θ_0, `[n]`; what has to be known of whole tensors is found first.

        Args:
            tensors: of the networks.
        """

    def networks(self, endpoints: Sequence[Endpoint], initial: Parameters) -> list[nn.Module]:
        from metasum.merging.memory import InMemory
        from metasum.weights.parameters import parameters_of, with_parameters

        sets = [end.parameters for end in endpoints]
        tensors = InMemory(sets, initial, [name for name, own in sets[0].items() if own.is_floating_point()])
        parts, found = self.own_parts(tensors), [parameters_of(end.network) for end in endpoints]
        for part in tensors.parts:
            chunk = tensors.chunk(part)
            for own, vector in zip(found, parts(chunk), strict=True):
                dtype = own[part.name].dtype
                own[part.name] = vector.add_(chunk.start_values).view(part.shape).to(dtype)
        return [with_parameters(end.network, own).eval() for end, own in zip(endpoints, found, strict=True)]
