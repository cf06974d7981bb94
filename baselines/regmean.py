"""RegMean (Jin et al. 2023, arXiv:2212.09849): the linear layer that answers most like each network on its own inputs.

For a linear layer, and for a convolution on its unfolded patches, W = (Σ G_i)⁻¹ Σ G_i W_i, where G_i is the mean of
xᵀx over the layer's inputs in network i, its off-diagonals shrunk. All other parameters are averaged.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metasum.baselines.least_squares import Products, is_solvable, seen_by, solution
from metasum.config import option
from metasum.merging.endpoints import Endpoint, NetworkMethod
from metasum.merging.method import ImagesConfig
from metasum.weights.listening import listening

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.types import Parameters

CHUNK = 32  # images whose patches are unfolded at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegMeanConfig(ImagesConfig):
    """Settings of `regmean`."""

    shrinkage: float = option(0.9, "Factor on the off-diagonal of RegMean's input products.", minimum=0, maximum=1)


class RegMean(NetworkMethod):
    """(Σ G_i)⁻¹ Σ G_i W_i for each layer, G_i of its inputs on images of each network's own dataset."""

    name = "regmean"
    summary = "Solves each layer for the answers that both networks give."
    paper = "Jin et al. 2023, arXiv:2212.09849"
    Config = RegMeanConfig
    candidates = {"shrinkage": (0.5, 0.9, 1.0)}
    needs_images = True
    needs_networks = True

    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        from metasum.weights.batches import limited
        from metasum.weights.composition import average_parameters

        merged = average_parameters([end.parameters for end in endpoints])
        products = [
            input_products(end, limited(end.images, self.config.merging_images, size=CHUNK)) for end in endpoints
        ]
        return {**merged, **self.solved(endpoints, products)}

    def solved(self, endpoints: Sequence[Endpoint], products: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """(Σ G_i)⁻¹ Σ G_i W_i for every weight of which each network has its G_i, in `products`."""
        return {
            name: _solve(
                [_shrunk(own[name], self.config.shrinkage) for own in products],
                [end.parameters[name] for end in endpoints],
            )
            for name in products[0]
            if all(name in own for own in products)
        }


def solved_layers(endpoint: Endpoint) -> dict[str, nn.Module]:
    """Every linear layer and ungrouped convolution that is merged, by its weight's name."""
    names = [(f"{name}.weight".removeprefix("."), m) for name, m in endpoint.network.named_modules() if is_solvable(m)]
    merged = endpoint.parameters
    return {name: module for name, module in names if name in merged}


def input_products(
    endpoint: Endpoint, batches: Iterable[Any], layers: Mapping[str, nn.Module] | None = None
) -> dict[str, Tensor]:
    """Mean of xᵀx over the inputs of layers, by the weight's name.

    Args:
        endpoint: a network that is run as it is; no gradient is recorded.
        batches: of inputs.
        layers: of those that `solved_layers` gives [default: all].

    Returns:
        Tensors `[K, K]`, float64; K is what one output sees: the inputs, or channels times kernel positions.
    """
    import torch
    from torch import nn

    totals = defaultdict[str, Products](Products)

    def hear(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        whole = inputs[0].detach()
        for some in torch.split(whole, CHUNK) if isinstance(module, nn.Conv2d) else (whole,):
            totals[name].add(seen_by(module, some))

    listened = solved_layers(endpoint) if layers is None else layers
    with torch.no_grad(), listening(listened, given=hear):
        for batch in batches:
            endpoint.logits(batch)
    return {name: own.means()[0] for name, own in totals.items()}


def _shrunk(product: Tensor, shrinkage: float) -> Tensor:
    shrunk = shrinkage * product
    shrunk.diagonal().copy_(product.diagonal())
    return shrunk


def _solve(products: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The W of least Σ tr((W - W_i) G_i (W - W_i)ᵀ), rows flattened; a ridge towards the average where singular."""
    import torch

    flat = [weight.flatten(1).double() for weight in weights]
    wanted = torch.stack([product @ own.T for product, own in zip(products, flat, strict=True)]).sum(0)
    found = solution(torch.stack(products).sum(0), wanted, torch.stack(flat).mean(0).T, what="RegMean")
    return found.T.reshape(weights[0].shape).to(weights[0].dtype)
