"""Finished networks, as the methods see them that need more than tensors by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metasum.merging.method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.types import Parameters
    from metasum.weights.batches import Forward


class Endpoint(NamedTuple):
    """A finished network, and images for the methods that look at data."""

    network: nn.Module
    """In eval mode; a method never changes it."""
    images: Iterable[Any]
    """Unlabelled training images of its own dataset, batches `[N, C, H, W]`, or whatever the network is called with
    (see `metasum.weights.batches`); empty where there are none. It may be read several times."""
    forward: Forward | None = None
    """From the network and a batch to logits, where it is not called in the usual way."""
    kept: frozenset[str] = frozenset()
    """Names of parameters that are this network's own, whatever the others have in their place: they are not merged."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """θ, detached, without what is kept."""
        return {name: own.detach() for name, own in self.network.named_parameters() if name not in self.kept}

    def few_images(self, count: int) -> Any:
        """A batch of at most `count` inputs; None without images."""
        from metasum.weights.batches import cut

        return next((cut(batch, 0, count) for batch in self.images), None)

    def logits(self, batch: Any) -> Tensor:
        """The network's answer to a batch of `images`.

        Raises:
            UsageError: it cannot be run on it.
            DivergenceError: it answers with NaN.
        """
        from metasum.weights.calling import answer
        from metasum.weights.guesses import check_answer

        logits = answer(self.network, batch, self.forward)
        check_answer(logits)
        return logits


class WideningMethod(Method, ABC):
    """A method whose result is another architecture than the networks'; it merges no files."""

    needs_networks = True
    any_start = True

    @classmethod
    def against_own_heads(cls) -> str:
        return "makes a network of another architecture, of which no head can be kept apart"

    @abstractmethod
    def network(
        self, networks: Sequence[nn.Module], images: Any = None, *, forward: Forward | None = None
    ) -> nn.Module:
        """A new network, in eval mode, with statistics of its own.

        Args:
            networks: two or more of one architecture, in eval mode; they are left alone.
            images: a few inputs that they take, to look at what they do; None where there are none.
            forward: from a network and such a batch to logits, where it is not called in the usual way.
        """


class NetworkMethod(Method, ABC):
    """A method that looks at networks or images; it merges no files.

    It asks a network through `Endpoint.logits`, so that it serves networks of any inputs.
    """

    def prepared(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """The networks as `merge` takes them: as they are, or changed copies, with what is kept changed to fit."""
        return endpoints

    @abstractmethod
    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        """The merged parameters, detached. Called through `metasum.merging.memory.merge`, which checks the facts.

        Args:
            endpoints: two or more networks of one architecture, as `prepared` gives them.
            initial: θ_0, where the method needs it.
        """


class PreparingMethod(NetworkMethod):
    """A method that averages changed copies of the networks."""

    @abstractmethod
    def prepared(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Copies whose average is the result."""

    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        from metasum.merging.memory import merge_parameters
        from metasum.merging.plain import Average

        return merge_parameters(Average(), [end.parameters for end in endpoints])


class AligningMethod(PreparingMethod):
    """A method that puts each network's channels into the first one's order, and then averages."""

    @abstractmethod
    def align(self, endpoint: Endpoint, to: Endpoint) -> nn.Module:
        """A copy of the endpoint's network with its channels in the order that is most like the other's.

        What is kept of it goes with the channels that it reads. That the copy computes the same function is looked at
        on images, before it is returned.

        Raises:
            ArchitectureError: its channels cannot be followed, or the copy computes something else.
        """

    def prepared(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """The first as it is, and copies of the others in its order."""
        first, *others = endpoints
        return [first, *(other._replace(network=self.align(other, first)) for other in others)]
