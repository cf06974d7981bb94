"""Representation surgery (Yang et al. 2024, arXiv:2402.02705): merged features made like each network's own again.

Features of a merged network are biased away from those that each network had. For each task a small adapter behind the
merged trunk takes the bias away; it is trained on unlabelled images. The task of an input has to be known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from metasum.config import option
from metasum.errors import ArchitectureError, DivergenceError, UsageError
from metasum.merging.endpoints import Endpoint
from metasum.merging.for_tasks import TaskMethod
from metasum.merging.method import ImagesConfig
from metasum.weights.listening import listening

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from metasum.types import Parameters


BATCH = 16  # images of one step, as the authors take
FEW = 4  # images that are looked at to find the head


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurgeryConfig(ImagesConfig):
    """Settings of `surgery`."""

    surgery_rank: int = option(16, "Rank of surgery's adapter for each task.", minimum=1)
    surgery_steps: int = option(1000, "Steps of Adam that each of surgery's adapters takes.", unit="steps", minimum=0)
    surgery_lr: float = option(1e-3, "Learning rate of surgery's Adam.", above=0)


class Surgery(TaskMethod):
    """The average of all that is below the heads, z - B relu(A z) for task i in place of its features z, and i's head.

    A and B are trained by Adam on the mean |z - B relu(A z) - z_i| over images of task i, z_i the features that network
    i had; B starts at 0, so that without a step the features are the merged ones. Features are what the head reads, a
    linear layer, which is no part of the average.
    """

    name = "surgery"
    summary = "The average, and for each task an adapter on its features: the task is known, no merge."
    paper = "Yang et al. 2024, arXiv:2402.02705"
    Config = SurgeryConfig
    needs_images = True
    needs_networks = True
    random = True
    compared = False  # its networks have layers that their architecture has not: runs could not save them

    def networks(self, endpoints: Sequence[Endpoint], initial: Parameters) -> list[nn.Module]:
        import torch

        from metasum.weights.batches import PIECE, limited
        from metasum.weights.calling import answer
        from metasum.weights.composition import average_parameters
        from metasum.weights.parameters import parameters_of, with_parameters
        from metasum.weights.statistics import recalibrate

        generator, found = torch.Generator().manual_seed(self.seed), []
        layer = _head(endpoints[0])
        trunks = [
            {name: own for name, own in end.parameters.items() if not name.startswith(f"{layer}.")} for end in endpoints
        ]
        merged = average_parameters(trunks) if len(trunks) > 1 else trunks[0]
        for end in endpoints:
            network = with_parameters(end.network, {**parameters_of(end.network), **merged}).eval()
            images = list(limited(end.images, self.config.merging_images, size=PIECE))
            recalibrate(network, images, forward=partial(answer, forward=end.forward))
            ours, theirs = (_features(end._replace(network=own), layer, images) for own in (network, end.network))
            adapter = _trained(ours, theirs, self.config, generator)
            path, _, leaf = layer.rpartition(".")
            setattr(network.get_submodule(path), leaf, torch.nn.Sequential(adapter, network.get_submodule(layer)))
            found.append(network.eval())
        return found


def _head(endpoint: Endpoint) -> str:
    """The name of the layer that is the network's head.

    Raises:
        ArchitectureError: it cannot be told which, or there is nothing else.
        UsageError: it is no linear layer.
    """
    import torch

    from metasum.networks.adapters import Called
    from metasum.networks.heads import head_layer

    said = hasattr(endpoint.network, "head_layer")
    called = Called(endpoint.network, endpoint.forward).eval()
    shown = (endpoint.few_images(FEW),)  # a tuple of inputs by position: the batch is one
    try:
        layer = head_layer(endpoint.network) if said else head_layer(called, shown).removeprefix("network.")
    except ArchitectureError as error:
        raise ArchitectureError(str(error).replace("--heads own", "surgery")) from error
    if layer == "network":
        raise ArchitectureError("surgery mends the features below a head, and this network is nothing but a head.")
    if not isinstance(endpoint.network.get_submodule(layer), torch.nn.Linear):
        raise UsageError(f"surgery mends what a linear head reads, and this network's head {layer!r} is none.")
    return layer


def _features(endpoint: Endpoint, layer: str, images: Sequence[Any]) -> Tensor:
    """What the head reads, `[n, features]`, on all images."""
    import torch

    found: list[Tensor] = []

    def hear(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        found.append(inputs[0].detach().flatten(0, -2))

    with torch.no_grad(), listening({layer: endpoint.network.get_submodule(layer)}, given=hear):
        for batch in images:
            endpoint.logits(batch)
    return torch.cat(found)


def _trained(ours: Tensor, theirs: Tensor, config: SurgeryConfig, generator: torch.Generator) -> nn.Module:
    """The adapter that makes features `ours`, `[n, features]`, most like `theirs`."""
    import torch

    from metasum.networks.adapters import LowRankAdapter

    adapter = LowRankAdapter(ours.shape[-1], config.surgery_rank, generator=generator).to(ours)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=config.surgery_lr)
    with torch.enable_grad():
        for _ in range(config.surgery_steps):
            rows = torch.randint(len(ours), (min(BATCH, len(ours)),), generator=generator).to(ours.device)
            loss = (adapter(ours[rows]) - theirs[rows]).abs().mean()
            if not loss.isfinite():
                raise DivergenceError("surgery: a network's features are NaN or infinite.")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return adapter
