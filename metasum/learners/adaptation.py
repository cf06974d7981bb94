"""Differentiable adaptation: clones of one initialisation that take gradient steps apart, and the sum of these.

MAML (Finn et al. 2017, arXiv:1703.03400) for networks that are to be added: the loss of the adapted clones, and of
their sum, is differentiated through the steps of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metasum import third_party
from metasum.errors import UsageError, unknown
from metasum.types import Buffers, Parameters
from metasum.weights.parameters import buffers_of, parameters_of
from metasum.weights.shared_parts import is_weight

Update = Callable[[dict[str, Tensor], Sequence[Tensor | None]], dict[str, Tensor]]
"""From parameters and their gradients (None: the loss does not depend on it) to the parameters after one step."""

Run = Callable[[nn.Module, Parameters, Buffers, Tensor], Tensor]
"""A network with these parameters and buffers, on images."""


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
    return INNER_RULES[name](model, lr)


class Clone:
    """A network on its way from where it was cloned: same structure, parameters of its own, differentiable.

    Args:
        model: lends its structure, its train or eval mode and its buffers, of which the clone has copies.
        update: how it takes a step.
        run: from `model`, parameters, buffers and images to logits.
    """

    def __init__(self, model: nn.Module, update: Update, run: Run) -> None:
        self._model, self._update, self._run = model, update, run
        # views: clones of one network must be told apart by the gradient, and share their first weights' memory
        self.parameters = {name: tensor.view_as(tensor) for name, tensor in parameters_of(model).items()}
        self.buffers = {name: buffer.clone() for name, buffer in buffers_of(model).items()}

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `[N, classes]`, with gradients through every step so far."""
        return self._run(self._model, self.parameters, self.buffers, images)

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step along given gradients, in the order of `parameters`."""
        self.parameters = self._update(self.parameters, gradients)


class Clones:
    """Clones that adapt apart, and their sum. The first is the target, the second the support.

    Args:
        networks: the clones, two or more.
        summed: from their parameter sets and images `[N, C, H, W]` to the sum's logits.
        first_order: hold each step's gradient constant, so that meta-gradients skip second derivatives.
    """

    def __init__(
        self,
        networks: Sequence[Clone],
        summed: Callable[[Sequence[Parameters], Tensor], Tensor],
        *,
        first_order: bool = False,
    ) -> None:
        if len(networks) < 2:
            raise UsageError(f"a sum takes at least two networks, not {len(networks)}.")
        self.networks, self._summed, self.first_order = list(networks), summed, first_order

    @property
    def target(self) -> Clone:
        return self.networks[0]

    @property
    def support(self) -> Clone:
        return self.networks[1]

    def adapt(self, loss: Tensor) -> None:
        """One gradient step of every network that `loss` depends on, apart from each other.

        Args:
            loss: the sum of the networks' own losses, a scalar in nats: no network's gradient sees another's term.
        """
        parameters = [list(network.parameters.values()) for network in self.networks]
        moving = [tensor for own in parameters for tensor in own if tensor.requires_grad]
        gradients = iter(torch.autograd.grad(loss, moving, create_graph=not self.first_order, allow_unused=True))
        for network, own in zip(self.networks, parameters, strict=True):
            network.step([next(gradients) if tensor.requires_grad else None for tensor in own])

    def summed(self, images: Tensor) -> Tensor:
        """Logits `[N, classes]` of the sum of what the clones have become; gradients reach all of them."""
        return self._summed([network.parameters for network in self.networks], images)
