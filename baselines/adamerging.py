"""AdaMerging (Yang et al. 2024, arXiv:2310.02575): task arithmetic whose λ are learnt from unlabelled images.

A network that is sure of its answers is, as a rule, right; so the λ of every network and layer are those with which
the merged network's predictions have the least entropy, on images of all datasets. No label is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from metasum.config import option
from metasum.errors import DivergenceError, UsageError
from metasum.merging.endpoints import Endpoint, NetworkMethod
from metasum.merging.method import ImagesConfig
from metasum.merging.ties import TIESConfig, agreeing_, trimmed_differences

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from metasum.types import Parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaMergingConfig(ImagesConfig):
    """Settings of `adamerging`."""

    adamerging_start: float = option(0.3, "λ that AdaMerging starts from, 0 to 1.", minimum=0, maximum=1)
    adamerging_steps: int = option(500, "Steps of Adam that AdaMerging takes.", unit="steps", minimum=0)
    adamerging_lr: float = option(1e-3, "Learning rate of AdaMerging's Adam.", above=0)
    adamerging_batch: int = option(
        32, "Images of each dataset that a step of AdaMerging sees.", unit="images", minimum=1
    )
    task_wise: bool = option(False, "AdaMerging learns one λ for each network, not one for each of its layers.")
    elect: bool = option(
        False, "AdaMerging++: it adds differences as TIES leaves them, trimmed and without what disagrees in sign."
    )
    density: float = option(0.2, "Share of each task vector that is kept.", above=0, maximum=1)


class AdaMerging(NetworkMethod):
    """θ_0 + Σ λ_i δ_i, the λ of every network and layer by Adam on the entropy of the merged network's predictions.

    A step takes the mean entropy on a batch of each dataset, and adds those up; with own heads (`keep=`) each
    dataset's images are answered by its own. λ stay within 0 and 1. As in the authors' code a layer is one tensor.
    Batch norms have each batch's statistics meanwhile, and are recalibrated behind it as for every method. Batches come
    as they are given, in an order that the seed draws anew for each pass: give shuffled images.
    """

    name = "adamerging"
    summary = "Task arithmetic whose λ make predictions on unlabelled images sure."
    paper = "Yang et al. 2024, arXiv:2310.02575"
    Config = AdaMergingConfig
    candidates = {"adamerging_start": (0.3, 0.5, 0.7)}
    fewest = 1
    needs_base = True
    needs_images = True
    needs_networks = True
    random = True

    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        import torch

        search = Search(self.differences(endpoints, initial), endpoints, initial)
        search.run(self.config, torch.Generator().manual_seed(self.seed))
        return search.merged()

    def differences(self, endpoints: Sequence[Endpoint], initial: Parameters) -> list[dict[str, Tensor]]:
        """For each network δ_i by name, float32 at least; of weights that are floating-point numbers."""
        from metasum.merging.memory import InMemory
        from metasum.merging.tensors import Chunk

        sets = [end.parameters for end in endpoints]
        tensors = InMemory(sets, initial, [name for name, own in sets[0].items() if own.is_floating_point()])
        vectors: Callable[[Chunk], list[Tensor]] = Chunk.differences
        if self.config.elect:
            vectors = trimmed_differences(TIESConfig(density=self.config.density), tensors, Chunk.differences)
        found: list[dict[str, Tensor]] = [{} for _ in endpoints]
        for part in tensors.parts:
            own = vectors(tensors.chunk(part))
            if self.config.elect:
                sign = agreeing_(own)
                own = [magnitudes.mul_(sign) for magnitudes in own]
            for differences, vector in zip(found, own, strict=True):
                differences[part.name] = vector.view(part.shape)
        return found


class Search:
    """The λ on their way, and networks that have the weights which these make.

    The gradient with respect to λ_i of a layer is ⟨dL/dθ, δ_i⟩, so that networks of any kind are run as they are.

    Args:
        differences: for each network δ_i by name.
        endpoints: the networks, with images.
        initial: θ_0.
    """

    def __init__(
        self, differences: Sequence[dict[str, Tensor]], endpoints: Sequence[Endpoint], initial: Parameters
    ) -> None:
        from metasum.merging.on_the_way import with_common_weights

        self._differences, self._initial = differences, initial
        self._walked = with_common_weights(endpoints, {name: initial[name] for name in differences[0]})

    def run(self, config: AdaMergingConfig, generator: torch.Generator) -> list[float]:
        """Takes the steps, and returns the entropy before each of them, in nats, added up over the datasets.

        Args:
            config: how many, how long, from where.
            generator: of the order of batches, on the CPU.
        """
        import torch

        names, count = list(self._differences[0]), len(self._differences)
        raw = torch.full((1 if config.task_wise else len(names), count), config.adamerging_start, dtype=torch.float64)
        raw.requires_grad_()
        optimizer = torch.optim.Adam([raw], lr=config.adamerging_lr)
        batches = [
            _for_ever(end, config.merging_images, size=config.adamerging_batch, generator=generator)
            for end in self._walked
        ]
        entropies = []
        with torch.enable_grad():
            for _ in range(config.adamerging_steps):
                clamped = raw.clamp(0, 1)
                self._write(clamped)
                entropy, gradient = self._entropy([next(own) for own in batches])
                optimizer.zero_grad()
                torch.autograd.backward(clamped.expand_as(gradient), gradient)
                optimizer.step()
                entropies.append(entropy)
        self._write(raw.clamp(0, 1))
        return entropies

    def merged(self) -> dict[str, Tensor]:
        """θ_0 + Σ λ_i δ_i for the λ so far."""
        weights = self._walked[0].parameters
        return {name: weights[name].clone() for name in self._differences[0]}

    def _write(self, coefficients: Tensor) -> None:
        """Gives the networks the weights that λ `[layers, networks]`, or `[1, networks]`, make."""
        import torch

        rows = coefficients.detach().expand(len(self._differences[0]), -1).tolist()
        weights = self._walked[0].parameters
        with torch.no_grad():
            for name, row in zip(self._differences[0], rows, strict=True):
                own = [differences[name] for differences in self._differences]
                wide = self._initial[name].to(own[0].dtype, copy=True)
                for coefficient, difference in zip(row, own, strict=True):
                    wide.add_(difference, alpha=coefficient)
                weights[name].copy_(wide)

    def _entropy(self, batches: Sequence[Any]) -> tuple[float, Tensor]:
        """The datasets' entropies, added up, and the gradient with respect to every λ, `[layers, networks]`."""
        import torch

        names, count = list(self._differences[0]), len(self._differences)
        entropy, gradient = 0.0, torch.zeros(len(names), count, dtype=torch.float64)
        for endpoint, batch in zip(self._walked, batches, strict=True):
            own = dict(endpoint.network.named_parameters())
            loss = entropy_of(endpoint.logits(batch))
            found = torch.autograd.grad(loss, [own[name] for name in names], allow_unused=True)
            for row, (name, towards) in enumerate(zip(names, found, strict=True)):
                for column, differences in enumerate(self._differences if towards is not None else ()):
                    difference = differences[name].flatten()
                    gradient[row, column] += float(torch.dot(towards.flatten().to(difference.dtype), difference))
            entropy += float(loss.detach())
        if not gradient.isfinite().all():
            raise DivergenceError("AdaMerging: the merged network's answers are NaN or infinite.")
        return entropy, gradient


def entropy_of(logits: Tensor) -> Tensor:
    """Mean entropy of the predicted classes, in nats; the gradient is kept.

    Args:
        logits: `[N, classes]`, or more dimensions behind.

    Raises:
        UsageError: they are no logits of two classes or more.
    """
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise UsageError(
            f"AdaMerging is for classifiers, whose answers are [N, classes]; a network answers {list(logits.shape)}."
        )
    surprise = logits.log_softmax(dim=1)
    return -(surprise.exp() * surprise).sum(dim=1).mean()


def _for_ever(endpoint: Endpoint, count: int, *, size: int, generator: torch.Generator) -> Iterator[Any]:
    """Batches of its first `count` inputs, all of them in one order after the other."""
    import torch

    from metasum.merging.on_the_way import batches_of

    batches = list(batches_of(endpoint, count, size=size))
    while True:
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]
