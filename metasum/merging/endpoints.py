"""Finished networks, as the methods see them that need more than tensors by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from metasum.merging.method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.types import Parameters


class Endpoint(NamedTuple):
    """A finished network, and images for the methods that look at data."""

    network: nn.Module
    """In eval mode; a method never changes it."""
    images: Sequence[Tensor]
    """Unlabelled training images of its own dataset, batches `[N, C, H, W]`."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """θ, detached."""
        return {name: tensor.detach() for name, tensor in self.network.named_parameters()}


class WideningMethod(Method, ABC):
    """A method whose result is another architecture than the networks'; it merges no files."""

    needs_networks = True

    @abstractmethod
    def network(self, networks: Sequence[nn.Module]) -> nn.Module:
        """A new network, in eval mode, with statistics of its own.

        Args:
            networks: two or more of one architecture, in eval mode; they are left alone.
        """


class NetworkMethod(Method, ABC):
    """A method that looks at networks or images; it merges no files."""

    @abstractmethod
    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        """The merged parameters, detached. Called through `metasum.merging.memory.merge`, which checks the facts.

        Args:
            endpoints: two or more networks of one architecture.
            initial: θ_0, where the method needs it.
        """
