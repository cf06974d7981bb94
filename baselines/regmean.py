"""RegMean (Jin et al. 2023, arXiv:2212.09849): the linear layer that answers most like each network on its own inputs.

For a linear layer, and for a convolution on its unfolded patches, W = (Σ G_i)⁻¹ Σ G_i W_i, where G_i is the mean of
xᵀx over the layer's inputs in network i, its off-diagonals shrunk. All other parameters are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

from metasum.baselines.merging import Endpoint, Merger
from metasum.errors import DivergenceError
from metasum.types import Parameters
from metasum.weights.composition import average_parameters

CHUNK = 32  # images whose patches are unfolded at once
RIDGE = 1e-6  # of the mean diagonal, ten times more at each attempt


def regmean_merger(*, shrinkage: float, images: int) -> Merger:
    """RegMean.

    Args:
        shrinkage: factor on the off-diagonal of the input products, in [0, 1].
        images: how many of each endpoint's images the products are taken on, at most.
    """

    def merge(endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        merged = average_parameters([endpoint.parameters for endpoint in endpoints])
        products = [input_products(e.network, torch.cat(list(e.images))[:images]) for e in endpoints]
        for name in products[0]:
            weights = [endpoint.parameters[name] for endpoint in endpoints]
            merged[name] = _solve([_shrunk(own[name], shrinkage) for own in products], weights)
        return merged

    return merge


def input_products(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean of xᵀx over the inputs of every linear layer and ungrouped convolution, by the weight's name.

    Args:
        network: in eval mode.
        images: `[N, C, H, W]`.

    Returns:
        Tensors `[K, K]`, float64; K is what one output sees: the inputs, or channels times kernel positions.
    """
    totals: dict[str, tuple[Tensor, int]] = {}

    def hear(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        rows = _rows(module, inputs[0].detach())
        total, count = totals.get(name, (torch.zeros((), device=rows.device), 0))
        totals[name] = (total + (rows.T @ rows).double(), count + len(rows))

    modules = [(f"{name}.weight", m) for name, m in network.named_modules() if _is_solved(m)]
    handles = [module.register_forward_pre_hook(partial(hear, name)) for name, module in modules]
    try:
        with torch.no_grad():
            for chunk in torch.split(images, CHUNK):
                network(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / count for name, (total, count) in totals.items()}


def _is_solved(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """What each output of the layer sees: `[number of outputs, K]`."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(module, nn.Conv2d)
    left = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = pad(inputs, left, mode=mode)
    patches = unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def _shrunk(product: Tensor, shrinkage: float) -> Tensor:
    return shrinkage * product + (1 - shrinkage) * torch.diag(product.diagonal())


def _solve(products: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The W of least Σ tr((W - W_i) G_i (W - W_i)ᵀ), rows flattened; a ridge towards the average where singular."""
    flat = [weight.flatten(1).double() for weight in weights]
    total = torch.stack(products).sum(0)
    wanted = torch.stack([product @ own.T for product, own in zip(products, flat, strict=True)]).sum(0)
    mean = torch.stack(flat).mean(0).T
    if not (total.isfinite().all() and wanted.isfinite().all()):
        raise DivergenceError("RegMean: a network's inner values, or its weights, are NaN or infinite.")
    ridge = 0.0
    scale = float(total.diagonal().mean()) or 1.0
    while True:
        shift = ridge * scale
        factor, failed = torch.linalg.cholesky_ex(
            total + shift * torch.eye(len(total), dtype=total.dtype, device=total.device)
        )
        if not failed:
            solved = torch.cholesky_solve(wanted + shift * mean, factor)
            return solved.T.reshape(weights[0].shape).to(weights[0].dtype)
        ridge = max(RIDGE, 10 * ridge)
