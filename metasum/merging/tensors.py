"""Methods whose arithmetic is on tensors, chunk by chunk, and what they are shown of networks in memory or in files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from metasum.merging.method import Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Part(NamedTuple):
    """One tensor of the merged network."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    """What it is computed in: float32, or float64 where one of the tensors is."""

    @property
    def entries(self) -> int:
        """How many values it has; 1 for a tensor of no dimensions."""
        return math.prod(self.shape)


class Chunk(NamedTuple):
    """Neighbouring entries of one tensor in every network; whoever is given it may write into it."""

    part: Part
    start: int
    """Of its first entry within the tensor."""
    values: list[Tensor]
    """One for each network: `[n]`, in the part's dtype; all of the tensor for a method of whole tensors."""
    base: Tensor | None
    """θ_0's, `[n]`, for a method that needs it."""

    def differences(self) -> list[Tensor]:
        """δ_i = θ_i - θ_0, in the θ_i's place."""
        return [value.sub_(self.start_values) for value in self.values]

    @property
    def start_values(self) -> Tensor:
        """θ_0's."""
        if self.base is None:
            raise ValueError("a method that works on differences says needs_base = True")
        return self.base


Formula: TypeAlias = Callable[[Chunk], "Tensor"]
"""From a chunk to its merged entries, `[n]`."""


class Tensors(ABC):
    """Several networks' tensors, in memory or in files of any size, as a method is shown them."""

    parts: Sequence[Part]
    """Those that the method merges: no statistics, and nothing that is left out."""
    count: int
    """How many networks."""

    @abstractmethod
    def show(self, see: Callable[[Chunk], None], parts: Sequence[Part] | None = None) -> None:
        """Calls `see` on every chunk of all parts, or of some, in any order, and from several threads at once."""


class TensorMethod(Method, ABC):
    """A method that needs nothing of networks but their tensors; it merges files, too.

    What it writes down is the arithmetic on one chunk. The same bits have to come out wherever a tensor is cut.
    """

    merges_files = True

    @abstractmethod
    def formula(self, tensors: Tensors) -> Formula:
        """The arithmetic; looks at the tensors where it has to know something of them whole first."""

    def needs_whole(self, part: Part) -> bool:
        """Whether that tensor has to be whole when it is merged."""
        return self.whole_tensors

    def readings(self, parts: Sequence[Part]) -> int:
        """How often it reads everything."""
        return 1
