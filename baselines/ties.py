"""TIES (Yadav et al. 2023, arXiv:2306.01708, algorithm 1): trim, elect signs, merge what agrees.

A task vector is trimmed as one long vector, over all layers at once, as in the paper; mergekit trims each tensor by
itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metasum.baselines.merging import Endpoint, Merger
from metasum.baselines.task_arithmetic import task_vectors
from metasum.types import Parameters


def ties_merger(*, density: float, scaling: float) -> Merger:
    """θ_0 + λ · (disjoint mean of the trimmed task vectors).

    Args:
        density: share of each task vector that is kept, the entries of largest magnitude, in (0, 1].
        scaling: λ.
    """

    def merge(endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        trimmed = [trim(vector, density=density) for vector in task_vectors(endpoints, initial)]
        return {
            name: start + scaling * disjoint_mean(torch.stack([vector[name] for vector in trimmed]))
            for name, start in initial.items()
        }

    return merge


def trim(vector: Parameters, *, density: float) -> dict[str, Tensor]:
    """Sets all but the largest `density` of a task vector's entries to 0; those as large as the last one kept stay."""
    magnitudes = torch.cat([tensor.abs().flatten() for tensor in vector.values()])
    kept = max(1, int(density * len(magnitudes)))
    threshold = magnitudes.kthvalue(len(magnitudes) - kept + 1).values
    return {name: tensor * (tensor.abs() >= threshold) for name, tensor in vector.items()}


def disjoint_mean(vectors: Tensor) -> Tensor:
    """Mean of the entries whose sign is that of their sum, over the first dimension; 0 where there are none."""
    agrees = (vectors.sign() == vectors.sum(0).sign()) & (vectors != 0)
    return (vectors * agrees).sum(0) / agrees.sum(0).clamp(min=1)
