"""How two networks' weights lie to each other, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from metasum.results.pictures import LayerGeometry
from metasum.types import Parameters
from metasum.weights.parameters import check_same_architecture


def layer_geometry(first: Parameters, second: Parameters) -> list[LayerGeometry]:
    """Cosine similarity and norm ratio of every weight matrix or kernel (biases and norms' vectors left out).

    Raises:
        ArchitectureError: the two differ; the first such parameter is named, with both shapes.
    """
    check_same_architecture([first, second])
    return [
        LayerGeometry(
            name.removesuffix(".weight"), *_compare(tensor.flatten().double(), second[name].flatten().double())
        )
        for name, tensor in first.items()
        if tensor.ndim >= 2
    ]


def _compare(first: Tensor, second: Tensor) -> tuple[float | None, float | None]:
    norms = first.norm(), second.norm()
    if min(norms) == 0:
        return None, None if norms[1] == 0 else 0.0
    cosine = cosine_similarity(first, second, dim=0, eps=torch.finfo(torch.float64).tiny)
    return float(cosine), float(norms[0] / norms[1])
