"""How a clone takes a gradient step: one rate, a learnt rate for every weight, or Adam; all differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metasum import third_party
from metasum.errors import UsageError, unknown
from metasum.weights.shared_parts import is_weight

Update = Callable[[dict[str, Tensor], Sequence[Tensor | None]], dict[str, Tensor]]
"""From parameters and their gradients (None: the loss does not depend on it) to the parameters after one step."""


class InnerSGD(nn.Module):
    """θ ← θ - lr ∇L, as learn2learn's MAML.

    Args:
        model: what is cloned (all its weights have one rate, so that it is not looked at).
        lr: that rate.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def start(self) -> Update:
        return lambda parameters, gradients: _descend(parameters, gradients, lambda name: self.lr)


class MetaSGD(nn.Module):
    """θ ← θ - lr ⊙ ∇L with a learnt rate for every weight (Li et al. 2017, arXiv:1707.09835), as learn2learn's MetaSGD.

    Args:
        model: whose weights get rates.
        lr: what the rates start from.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        super().__init__()
        weights = {name: own for name, own in model.named_parameters() if is_weight(own)}
        self._names = list(weights)
        self.lrs = nn.ParameterList(torch.full_like(own, lr) for own in weights.values())

    def start(self) -> Update:
        rates = dict(zip(self._names, self.lrs, strict=True))
        return lambda parameters, gradients: _descend(parameters, gradients, rates.__getitem__)


class InnerAdam(nn.Module):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), differentiable in its moments as well, by `higher`.

    Where a gradient is nearly 0 its second derivative is huge: with batch norm or many steps, prefer first order.

    Args:
        model: what is cloned.
        lr: its step size.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: its parameters are not the rule's
        self.lr = lr

    def start(self) -> Update:
        reference = [own for own in self._model[0].parameters() if own.requires_grad]
        rule: Any = third_party.higher().optim.get_diff_optim(torch.optim.Adam(reference, self.lr), reference)

        def update(parameters: dict[str, Tensor], gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
            moving = [name for name, tensor in parameters.items() if tensor.requires_grad]
            known = [own for own, tensor in zip(gradients, parameters.values(), strict=True) if tensor.requires_grad]
            tensors = [parameters[name] for name in moving]  # the loss is a stand-in: the gradients are known already
            stepped = rule.step(tensors[0].sum(), params=tensors, grad_callback=lambda _: known)
            return {**parameters, **dict(zip(moving, stepped, strict=True))}

        return update


def _descend(
    parameters: dict[str, Tensor], gradients: Sequence[Tensor | None], rate: Callable[[str], float | Tensor]
) -> dict[str, Tensor]:
    return {
        name: parameter if gradient is None else parameter - rate(name) * gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


INNER_RULES: dict[str, Callable[[nn.Module, float], Any]] = {"sgd": InnerSGD, "meta-sgd": MetaSGD, "adam": InnerAdam}


def inner_rule(name: str, model: nn.Module, lr: float) -> Any:
    """The rule called `name` ("sgd", "meta-sgd" or "adam") for clones of `model`; raises UsageError for another."""
    if name not in INNER_RULES:
        raise unknown("inner optimizer", name, INNER_RULES)
    if lr < 0:
        raise UsageError(f"lr= is a step size, at least 0, not {lr:g}.")
    return INNER_RULES[name](model, lr)
