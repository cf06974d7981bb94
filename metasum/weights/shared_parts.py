"""Parameters that are not weights of a sum: integers, and parts that are frozen in every network.

They are constants, which all networks hold alike and the sum keeps. θ_t + θ_s of a frozen trunk would be twice the
trunk, which nobody trained; twice an integer (an index, a number of bits) means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from metasum.errors import ArchitectureError, UsageError
from metasum.types import Parameters


def is_weight(tensor: Tensor) -> bool:
    """Whether a parameter is a number that arithmetic means something for: floating-point or complex."""
    return tensor.is_floating_point() or tensor.is_complex()


def frozen_parts(network: nn.Module) -> tuple[str, ...]:
    """Names of the weights of `network` that do not require gradients, while others do.

    Where none does (a network that is only evaluated), nothing counts as frozen.
    """
    weights = {name: own for name, own in network.named_parameters() if is_weight(own)}
    frozen = tuple(name for name, own in weights.items() if not own.requires_grad)
    return frozen if len(frozen) < len(weights) else ()


def keep_shared(
    parameter_sets: Sequence[Parameters],
    rule: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]],
    frozen: Iterable[str] = (),
) -> dict[str, Tensor]:
    """What `rule` makes of the weights, with the constants as all networks have them.

    Args:
        parameter_sets: of one architecture.
        rule: from the parameter sets without constants to one of these.
        frozen: names of weights that are constants, too; they are the first network's, and not compared here.

    Raises:
        ArchitectureError: an integer parameter differs between the networks; it is named.
    """
    first, known = parameter_sets[0], frozenset(frozen)
    integers = [name for name, tensor in first.items() if not is_weight(tensor)]
    if not integers and not known:
        return rule([dict(own) for own in parameter_sets])
    check_equal(parameter_sets, integers, "an integer parameter, which cannot be added")
    constants = known.union(integers)
    weights = rule([{name: own[name] for name in own if name not in constants} for own in parameter_sets])
    return {name: tensor if name in constants else weights[name] for name, tensor in first.items()}


def check_equal(parameter_sets: Sequence[Parameters], names: Iterable[str], what: str) -> None:
    """Raises ArchitectureError unless all sets hold the same values under these names; the first is named."""
    for name in names:
        own = parameter_sets[0][name]
        if any(other[name] is not own and not torch.equal(other[name], own) for other in parameter_sets[1:]):
            raise ArchitectureError(
                f"{name!r} is {what}, and differs between the networks: give them the same values"
                f"{', or let it require gradients' if is_weight(own) else ''}."
            )


def check_still_frozen(network: nn.Module, frozen: Iterable[str]) -> None:
    """Raises UsageError where a weight that was frozen when networks were paired is trained by now; it is named."""
    for name in frozen:
        if network.get_parameter(name).requires_grad:
            raise UsageError(
                f"{name!r} was frozen when the MetaSum was made, and its sum keeps the target's: make a new MetaSum "
                "of the networks to add it from now on."
            )
