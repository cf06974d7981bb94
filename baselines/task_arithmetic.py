"""Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089): θ_0 + λ Σ (θ_i - θ_0)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from metasum.baselines.merging import Endpoint, Merger
from metasum.types import Parameters
from metasum.weights.composition import task_arithmetic
from metasum.weights.parameters import check_same_architecture


def task_vectors(endpoints: Sequence[Endpoint], initial: Parameters) -> list[dict[str, Tensor]]:
    """δ_i = θ_i - θ_0 of every endpoint.

    Raises:
        ArchitectureError: an endpoint differs from the initialisation; the first difference is named.
    """
    check_same_architecture([initial, *(endpoint.parameters for endpoint in endpoints)])
    return [{name: tensor - initial[name] for name, tensor in endpoint.parameters.items()} for endpoint in endpoints]


def task_arithmetic_merger(*, scaling: float) -> Merger:
    """Task arithmetic with λ = `scaling`."""
    return lambda endpoints, initial: task_arithmetic([e.parameters for e in endpoints], initial, scaling=scaling)
