"""Numbers of channels, of which two can turn out to be one, and which axis of which tensor holds which."""

from __future__ import annotations

import torch
from torch import Tensor


class Numbering:
    """Numbers of channels, of which two can become one, and the axes that hold them."""

    def __init__(self) -> None:
        self._root = torch.zeros(1, dtype=torch.long)
        self.axes: dict[tuple[int, int], Tensor] = {}
        """Channels along a dimension of a tensor, by the tensor's `id` and the dimension."""
        self.sets: list[Tensor] = []
        """Channels that may change places among themselves only (a normalisation takes their mean)."""

    def new(self, count: int) -> Tensor:
        start = len(self._root)
        self._root = torch.cat([self._root, torch.arange(start, start + count)])
        return torch.arange(start, start + count)

    def roots(self, channels: Tensor) -> Tensor:
        """The least of all numbers that are one with each."""
        return self._root[channels]

    def join(self, first: Tensor, second: Tensor) -> None:
        """Makes channels one, element by element of two tensors of one shape."""
        ours, theirs = self.roots(first).flatten(), self.roots(second).flatten()
        differ = ours != theirs
        for one, other in sorted(set(zip(ours[differ].tolist(), theirs[differ].tolist(), strict=True))):
            least, most = sorted((int(self._root[one]), int(self._root[other])))
            self._root[self._root == most] = least

    def use(self, tensor: Tensor | None, dimension: int, channels: Tensor) -> None:
        """Notes that `tensor` holds these channels along a dimension; of a tensor used before, they are the same."""
        if tensor is not None:
            self.join(self.axes.setdefault((id(tensor), dimension), channels), channels)
