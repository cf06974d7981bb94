"""What becomes of several networks' parameters: pure functions, differentiable in every argument.

Each takes N >= 2 parameter sets of one architecture and returns a new one; the inputs are never changed, and
the result's gradient flows back to all of them (for `sum`, the same tensor to each). Integer parameters are not added:
they are kept where all networks hold the same, and refused by name where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from metasum.arguments import checked
from metasum.errors import UsageError, unknown
from metasum.types import Parameters
from metasum.weights.parameters import check_same_architecture, layers_of
from metasum.weights.shared_parts import is_weight, keep_shared

Operator = Callable[[Sequence[Parameters]], dict[str, Tensor]]


def total_(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum, in the first one's place; the gradient reaches all."""
    first, *others = tensors
    for other in others:
        first.add_(other)
    return first


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Their sum, a new tensor."""
    return total_([tensors[0].clone(), *tensors[1:]])


def average_(tensors: Sequence[Tensor]) -> Tensor:
    """Their mean, in the first one's place."""
    return total_(tensors).div_(len(tensors))


def added_(differences: Sequence[Tensor], start: Tensor, scaling: float) -> Tensor:
    """θ_0 + λ Σ δ_i, in the first difference's place; the gradient reaches all."""
    return total_(differences).mul_(scaling).add_(start)


@checked
def sum_parameters(parameter_sets: Sequence[Parameters]) -> dict[str, Tensor]:
    """θ_1 + θ_2 + …, tensor by tensor; dL/dθ_i is the same for every i.

    Example:
        >>> total = sum_parameters([dict(first.named_parameters()), dict(second.named_parameters())])
        >>> logits = torch.func.functional_call(first, total, (images,))  # with gradients to both networks

    Raises:
        ArchitectureError: the sets differ; the first such parameter is named, with both shapes.
    """
    if len(parameter_sets) < 2:
        raise UsageError(f"a sum takes at least two networks, not {len(parameter_sets)}.")
    check_same_architecture(parameter_sets)
    return keep_shared(parameter_sets, _sum)


def _sum(parameter_sets: Sequence[Parameters]) -> dict[str, Tensor]:
    first, second, *others = parameter_sets
    return {name: total_([tensor + second[name], *(other[name] for other in others)]) for name, tensor in first.items()}


@checked
def average_parameters(parameter_sets: Sequence[Parameters]) -> dict[str, Tensor]:
    """(θ_1 + … + θ_N) / N, tensor by tensor; dL/dθ_i is the same for every i.

    Example:
        >>> mean = average_parameters([dict(first.named_parameters()), dict(second.named_parameters())])
        >>> logits = torch.func.functional_call(first, mean, (images,))  # with gradients to both networks

    Raises:
        ArchitectureError: the sets differ; the first such parameter is named, with both shapes.
    """
    total, count = sum_parameters(parameter_sets), len(parameter_sets)
    return {name: tensor.div_(count) if is_weight(tensor) else tensor for name, tensor in total.items()}


def task_arithmetic(parameter_sets: Sequence[Parameters], initial: Parameters, *, scaling: float) -> dict[str, Tensor]:
    """θ_0 + λ Σ (θ_i - θ_0), tensor by tensor (Ilharco et al. 2023, arXiv:2212.04089).

    Args:
        parameter_sets: one or more θ_i; dL/dθ_i is λ times the result's gradient.
        initial: θ_0; dL/dθ_0 is 1 - Nλ times the result's gradient.
        scaling: λ; at 1/N, N the number of networks, this is their average.

    Raises:
        ArchitectureError: the sets differ; the first such parameter is named, with both shapes.
    """
    check_same_architecture([initial, *parameter_sets])

    def moved(sets: Sequence[Parameters]) -> dict[str, Tensor]:
        start, *others = sets
        return {name: added_([other[name] - own for other in others], own, scaling) for name, own in start.items()}

    return keep_shared([initial, *parameter_sets], moved)


class LearnedSum(nn.Module):
    """Σ_i α_i,l θ_i, with a coefficient for each network and layer l that is trained with the rest; all start at 1.

    Args:
        parameters: a parameter set of the architecture, which says what its layers are.
        count: of networks with coefficients of their own; any further ones have the last one's.
    """

    def __init__(self, parameters: Parameters, count: int = 2) -> None:
        super().__init__()
        layers = layers_of({name: own for name, own in parameters.items() if is_weight(own)})
        self._layer = {name: index for index, layer in enumerate(layers) for name in layer}
        first = next(own for own in parameters.values() if is_weight(own))
        self.coefficients = nn.Parameter(first.new_ones(count, len(layers)))

    def forward(self, parameter_sets: Sequence[Parameters]) -> dict[str, Tensor]:
        """The gradient reaches the coefficients and every set.

        Raises:
            ArchitectureError: the sets differ; the first such parameter is named, with both shapes.
        """
        check_same_architecture(parameter_sets)
        return keep_shared(parameter_sets, self._weighted)

    def _weighted(self, parameter_sets: Sequence[Parameters]) -> dict[str, Tensor]:
        rows = [self.coefficients[min(index, len(self.coefficients) - 1)] for index in range(len(parameter_sets))]
        return {
            name: torch.stack([row[layer] * own[name] for row, own in zip(rows, parameter_sets, strict=True)]).sum(0)
            for name, layer in self._layer.items()
        }


OPERATORS: dict[str, Operator] = {"sum": sum_parameters, "average": average_parameters}
"""Those that need nothing but the parameter sets."""


def keeps_functions(operator: str) -> bool:
    """Whether networks without a channel in common, each with its own statistics, compute in it what they did alone."""
    return OPERATORS.get(operator) is sum_parameters


def operator_named(name: str, also: Iterable[str] = ()) -> Operator:
    """The operator called `name`; raises UsageError where there is none, listing all with those known `also`."""
    if name not in OPERATORS:
        raise unknown("operator", name, [*OPERATORS, *also])
    return OPERATORS[name]
