"""DARE (Yu et al. 2024, arXiv:2311.03099, section 3.2): drop entries of each task vector at random, rescale the rest.

What is left goes through task arithmetic or TIES. The rest is divided by 1 - p, as in the paper; mergekit rescales to
the tensor's old L1 norm instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metasum.baselines.merging import Endpoint, Merger
from metasum.baselines.task_arithmetic import task_vectors
from metasum.baselines.ties import disjoint_mean, trim
from metasum.types import Parameters


def dare_merger(*, drop_rate: float, scaling: float, ties_density: float | None, seed: int) -> Merger:
    """θ_0 + λ Σ δ̃_i, δ̃_i the thinned task vectors; or TIES on them.

    Args:
        drop_rate: p, the chance of each entry to be dropped, in [0, 1).
        scaling: λ.
        ties_density: share that TIES keeps of each thinned vector; None for task arithmetic.
        seed: of the draws, which are made on the CPU, network by network, tensor by tensor.
    """

    def merge(endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        vectors = [
            thin(vector, drop_rate=drop_rate, generator=generator) for vector in task_vectors(endpoints, initial)
        ]
        if ties_density is not None:
            vectors = [trim(vector, density=ties_density) for vector in vectors]
        stacks = {name: torch.stack([vector[name] for vector in vectors]) for name in initial}
        return {
            name: start + scaling * (stacks[name].sum(0) if ties_density is None else disjoint_mean(stacks[name]))
            for name, start in initial.items()
        }

    return merge


def thin(vector: Parameters, *, drop_rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Each entry is dropped with probability `drop_rate`; the rest is divided by 1 - `drop_rate`: the same mean."""
    kept = {
        name: torch.bernoulli(torch.full(tensor.shape, 1.0 - drop_rate), generator=generator).to(tensor)
        for name, tensor in vector.items()
    }
    return {name: tensor * kept[name] / (1 - drop_rate) for name, tensor in vector.items()}
