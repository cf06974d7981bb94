"""RegMean (Jin et al. 2023, arXiv:2212.09849): the linear layer that answers most like each network on its own inputs.

For a linear layer, and for a convolution on its unfolded patches, W = (Σ G_i)⁻¹ Σ G_i W_i, where G_i is the mean of
xᵀx over the layer's inputs in network i, its off-diagonals shrunk. All other parameters are averaged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from metasum.baselines.least_squares import is_solvable, seen_by, solution
from metasum.config import option
from metasum.merging.endpoints import Endpoint, NetworkMethod
from metasum.merging.method import ImagesConfig

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
        from metasum.weights.composition import average_parameters

        merged = average_parameters([end.parameters for end in endpoints])
        products = [input_products(end, self.config.merging_images) for end in endpoints]
        for name in (name for name in products[0] if all(name in own for own in products)):
            weights = [end.parameters[name] for end in endpoints]
            merged[name] = _solve([_shrunk(own[name], self.config.shrinkage) for own in products], weights)
        return merged


def input_products(endpoint: Endpoint, count: int) -> dict[str, Tensor]:
    """Mean of xᵀx over the inputs of every linear layer and ungrouped convolution that is merged, by the weight's name.

    Args:
        endpoint: a network in eval mode.
        count: of its images that are looked at, at most.

    Returns:
        Tensors `[K, K]`, float64; K is what one output sees: the inputs, or channels times kernel positions.
    """
    import torch

    from metasum.weights.batches import limited

    totals: dict[str, tuple[Tensor, int]] = {}

    def hear(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        rows = seen_by(module, inputs[0].detach())
        total, count = totals.get(name, (torch.zeros((), device=rows.device), 0))
        totals[name] = (total + (rows.T @ rows).double(), count + len(rows))

    merged = endpoint.parameters
    names = [(f"{name}.weight".removeprefix("."), m) for name, m in endpoint.network.named_modules() if is_solvable(m)]
    modules = [(name, module) for name, module in names if name in merged]
    handles = [module.register_forward_pre_hook(partial(hear, name)) for name, module in modules]
    try:
        with torch.no_grad():
            for chunk in limited(endpoint.images, count, size=CHUNK):
                endpoint.logits(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / count for name, (total, count) in totals.items()}


def _shrunk(product: Tensor, shrinkage: float) -> Tensor:
    return shrinkage * product + (1 - shrinkage) * product.diagonal().diag()


def _solve(products: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The W of least Σ tr((W - W_i) G_i (W - W_i)ᵀ), rows flattened; a ridge towards the average where singular."""
    import torch

    flat = [weight.flatten(1).double() for weight in weights]
    wanted = torch.stack([product @ own.T for product, own in zip(products, flat, strict=True)]).sum(0)
    found = solution(torch.stack(products).sum(0), wanted, torch.stack(flat).mean(0).T, what="RegMean")
    return found.T.reshape(weights[0].shape).to(weights[0].dtype)
