"""mergekit's methods by its names: what each reads of a file, and which object of the project merges so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from metasum.errors import UsageError
from metasum.merging.mergekit.parameters import Parameter
from metasum.merging.mergekit.spheres import (
    CosinesOfLong,
    CosinesOfRows,
    FewSteps,
    Flat,
    Linear,
    NearlyLinearSLERP,
    Unnormalised,
)
from metasum.merging.mergekit.task_vectors import TaskVectors
from metasum.merging.mergekit.thinning import Dropped, DroppedByRank, Trimmed, WithoutOutliers
from metasum.merging.multislerp import MultiSLERP
from metasum.merging.nuslerp import NuSLERP
from metasum.merging.tensors import TensorMethod

Shared: TypeAlias = Mapping[str, Any]
Each: TypeAlias = Sequence[Mapping[str, Any]]
Make: TypeAlias = Callable[[Shared, Each, int], TensorMethod]
"""From the parameters that all share, those of each network, and a seed, to the method for one tensor."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method of mergekit's."""

    make: Make
    parameters: tuple[Parameter, ...] = ()
    base: Literal["needed", "optional", "ordinary"] = "ordinary"
    """Whether it works on differences from the base model; "ordinary": that is one model among others."""
    base_first: bool = False
    """Whether the base is the first of the networks that are merged, and not what they are seen from."""
    fewest: int = 1
    """Models, beside the base where that is none of them."""
    most: int | None = None


def _weights(each: Each) -> tuple[float, ...]:
    return tuple(own["weight"] for own in each)


def _linear(shared: Shared, each: Each, seed: int) -> TensorMethod:
    weights = _weights(each)
    if shared["normalize"] and sum(weights) == 0:
        raise UsageError("the weights add up to 0, and nothing can be divided by that; say normalize: false.")
    return Linear(weights=weights, normalize=shared["normalize"])


def _scaled(shared: Shared, each: Each, seed: int) -> TensorMethod:
    return Linear(weights=tuple(1.0 if own["scale"] is None else own["scale"] for own in each))


def _slerp(shared: Shared, each: Each, seed: int) -> TensorMethod:
    if not 0 <= shared["t"] <= 1:
        raise UsageError(f"t is between 0 (the base_model) and 1, not {shared['t']}.")
    return NearlyLinearSLERP(position=shared["t"])


def _not_negative(weights: Sequence[float]) -> None:
    for weight in weights:
        if weight < 0:
            raise UsageError(f"this merge_method takes no negative weight like {weight}.")


def _nuslerp(shared: Shared, each: Each, seed: int) -> TensorMethod:
    weights = _weights(each)
    _not_negative(weights)
    rows = "columns" if shared["nuslerp_row_wise"] else "rows"
    return NuSLERP(
        weights=weights if sum(weights) >= 1e-6 else (), vectors="tensor" if shared["nuslerp_flatten"] else rows
    )


def _multislerp(shared: Shared, each: Each, seed: int) -> TensorMethod:
    weights = _weights(each)
    if len(weights) == 1:
        return Linear(weights=(1.0,))
    _not_negative(weights)
    if not any(weights):
        raise UsageError("the weights are all of them 0.")
    return (MultiSLERP if shared["normalize_weights"] else Unnormalised)(weights=weights)


def _karcher(shared: Shared, each: Each, seed: int) -> TensorMethod:
    return Linear(weights=(1.0,)) if len(each) == 1 else FewSteps(shared["max_iter"], shared["tol"])


def _model_stock(shared: Shared, each: Each, seed: int) -> TensorMethod:
    return CosinesOfRows() if shared["filter_wise"] else CosinesOfLong()


def _sce(shared: Shared, each: Each, seed: int) -> TensorMethod:
    return Flat(density=min(max(shared["select_topk"], 0.0), 1.0))


def _task_vectors(shared: Shared, each: Each, seed: int, *, kind: type[TaskVectors], elect: bool) -> TensorMethod:
    return kind(
        seed=seed,
        weights=_weights(each),
        densities=tuple(own["density"] for own in each),
        outliers=tuple(own["gamma"] for own in each if "gamma" in own),
        windows=tuple(own["epsilon"] for own in each if "epsilon" in own),
        scaling=shared["lambda"],
        normalize=shared["normalize"],
        rescale=shared["rescale"],
        elect=elect,
    )


def _differences(
    kind: type[TaskVectors], *more: Parameter, elect: bool = False, normalize: bool = False, rescale: bool = False
) -> Recipe:
    """A recipe of generalised task arithmetic, with mergekit's defaults."""
    parameters = (
        Parameter("weight", "number", required=True, each="network"),
        Parameter("density", "number", 1.0, each="network"),
        *more,
        Parameter("lambda", "number", 1.0),
        Parameter("normalize", "flag", normalize),
        Parameter("rescale", "flag", rescale),
        Parameter("int8_mask", "flag", default=False),
    )
    return Recipe(partial(_task_vectors, kind=kind, elect=elect), parameters, base="needed")


_of_networks = Parameter("weight", "number", required=True, each="network")
_of_inputs = Parameter("weight", "number", required=True, each="input")
_gamma = Parameter("gamma", "number", 0.01, each="network")
_epsilon = Parameter("epsilon", "number", 0.15, each="network")

RECIPES: dict[str, Recipe] = {
    "linear": Recipe(_linear, (_of_inputs, Parameter("normalize", "flag", default=True))),
    "slerp": Recipe(_slerp, (Parameter("t", "number", required=True),), base="needed", base_first=True, most=1),
    "nuslerp": Recipe(
        _nuslerp,
        (
            _of_networks,
            Parameter("nuslerp_row_wise", "flag", default=False),
            Parameter("nuslerp_flatten", "flag", default=True),
        ),
        base="optional",
        fewest=2,
        most=2,
    ),
    "multislerp": Recipe(
        _multislerp, (_of_networks, Parameter("normalize_weights", "flag", default=True)), base="optional"
    ),
    "karcher": Recipe(_karcher, (Parameter("max_iter", "count", 10), Parameter("tol", "number", 1e-5))),
    "task_arithmetic": _differences(TaskVectors),
    "ties": _differences(Trimmed, elect=True, normalize=True),
    "dare_linear": _differences(Dropped, rescale=True),
    "dare_ties": _differences(Dropped, elect=True, rescale=True),
    "della": _differences(DroppedByRank, _epsilon, elect=True, normalize=True, rescale=True),
    "della_linear": _differences(DroppedByRank, _epsilon, rescale=True),
    "breadcrumbs": _differences(WithoutOutliers, _gamma),
    "breadcrumbs_ties": _differences(WithoutOutliers, _gamma, elect=True),
    "model_stock": Recipe(_model_stock, (Parameter("filter_wise", "flag", default=False),), base="needed", fewest=2),
    "sce": Recipe(
        _sce, (Parameter("select_topk", "number", 1.0), Parameter("int8_mask", "flag", default=False)), base="needed"
    ),
    "passthrough": Recipe(_scaled, (Parameter("scale", "number", each="input"),), most=1),
}
