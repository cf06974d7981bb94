"""Differentiable adaptation: clones of one initialisation that take gradient steps apart, and the sum of these.

MAML (Finn et al. 2017, arXiv:1703.03400) for networks that are to be added: the loss of the adapted clones, and of
their sum, is differentiated through the steps of all of them. Clones speak the dialect of learn2learn's `MAML.clone`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from metasum.arguments import checked
from metasum.errors import UsageError
from metasum.learners.inner_rules import Update
from metasum.weights.modes import in_mode
from metasum.weights.parameters import buffers_of, parameters_of
from metasum.weights.shared_parts import is_weight

Run = Callable[..., Any]
"""A network, parameters, buffers, and inputs by position and by name; to what it answers with these."""


@dataclasses.dataclass(frozen=True)
class Adapting:
    """What a step allows, by the names and meanings of learn2learn's MAML.

    Attributes:
        first_order: each step's gradient is held constant, so that meta-gradients skip second derivatives.
        allow_unused: whether weights that the loss does not depend on stay as they are (else they are an error).
            None: as `allow_nograd`.
        allow_nograd: whether weights that require no gradient stay as they are (else they are an error).
    """

    first_order: bool = False
    allow_unused: bool | None = None
    allow_nograd: bool = False

    def changed(self, **given: bool | None) -> Adapting:
        """With those that are not None."""
        return dataclasses.replace(self, **{name: value for name, value in given.items() if value is not None})


class Clone:
    """A network on its way from where it was cloned: same structure, parameters of its own, differentiable.

    Its parameters are no leaves: a `backward` puts gradients into what they were cloned from, unless `retain_grad` asks
    for theirs, too.

    Args:
        model: lends its structure, its train or eval mode and its buffers, of which the clone has copies.
        update: how it takes a step.
        run: from `model`, parameters, buffers and inputs to what the network answers.
        adapting: what `adapt` allows.
    """

    def __init__(self, model: nn.Module, update: Update, run: Run, adapting: Adapting) -> None:
        self._model, self._update, self._run, self._adapting = model, update, run, adapting
        # views: clones of one network must be told apart by the gradient, and share their first weights' memory
        self._parameters = {name: tensor.view_as(tensor) for name, tensor in parameters_of(model).items()}
        self._buffers = {name: buffer.clone() for name, buffer in buffers_of(model).items()}
        self._mode: bool | None = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What the network answers (of images: logits `[N, classes]`), with gradients through every step so far."""
        with self.in_its_mode():
            return self._run(self._model, self._parameters, self._buffers, *inputs, **named)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """As they are after the steps so far, by the model's names."""
        yield from self._parameters.items()

    def parameters(self) -> Iterator[Tensor]:
        """As they are after the steps so far, in the model's order."""
        yield from self._parameters.values()

    @property
    def training(self) -> bool:
        return self._model.training if self._mode is None else self._mode

    def train(self, mode: bool = True) -> Clone:
        """Puts this clone alone into train (or eval) mode; before, it is in the model's."""
        self._mode = mode
        return self

    def eval(self) -> Clone:
        return self.train(False)

    def in_its_mode(self) -> AbstractContextManager[None]:
        """Within the block the model is in the clone's mode."""
        return nullcontext() if self._mode is None else in_mode(self._mode, self._model)

    @checked
    def adapt(
        self,
        loss: Tensor,
        *,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
    ) -> None:
        """One gradient step of this network; see `Clones.adapt`."""
        given = {"first_order": first_order, "allow_unused": allow_unused, "allow_nograd": allow_nograd}
        _adapt([self], loss, self._adapting.changed(**given))

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step along given gradients, in the order of `parameters`; None leaves a parameter as it is."""
        self._parameters = self._update(self._parameters, gradients)


class Clones:
    """Clones that adapt apart, and their sum, which is what they are when called. The first is the target.

    Args:
        networks: the clones, two or more.
        summed: from their parameter sets and inputs to what the sum answers.
        adapting: what `adapt` allows.
    """

    def __init__(self, networks: Sequence[Clone], summed: Callable[..., Any], adapting: Adapting) -> None:
        if len(networks) < 2:
            raise UsageError(f"a sum takes at least two networks, not {len(networks)}.")
        self.networks, self._summed, self._adapting = list(networks), summed, adapting

    def __iter__(self) -> Iterator[Clone]:
        return iter(self.networks)

    @property
    def target(self) -> Clone:
        return self.networks[0]

    @property
    def support(self) -> Clone:
        return self.networks[1]

    def parameters(self) -> Iterator[Tensor]:
        """Of all networks, one after the other, as they are after the steps so far."""
        for network in self.networks:
            yield from network.parameters()

    def train(self, mode: bool = True) -> Clones:
        """Puts the clones, and their sum, into train (or eval) mode; before, they are in their models'."""
        for network in self.networks:
            network.train(mode)
        return self

    def eval(self) -> Clones:
        return self.train(False)

    @checked
    def adapt(
        self,
        loss: Tensor,
        *,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
    ) -> None:
        """One gradient step of every network that `loss` depends on, apart from each other.

        Args:
            loss: a scalar: the sum of the networks' own losses, so that no network's gradient sees another's term; or
                the loss of their sum, which all descend.
            first_order, allow_unused, allow_nograd: [default: as the clones were made], see `Adapting`.

        Raises:
            UsageError: the loss is no scalar or depends on no network; or on only some weights of one, or a weight
                requires no gradient, where that is not allowed; it is named.
        """
        given = {"first_order": first_order, "allow_unused": allow_unused, "allow_nograd": allow_nograd}
        _adapt(self.networks, loss, self._adapting.changed(**given))

    def summed(self, *inputs: Any, **named: Any) -> Any:
        """What the sum of what the clones have become answers (of images: logits); gradients reach all of them."""
        with self.target.in_its_mode():
            return self._summed([dict(network.named_parameters()) for network in self.networks], *inputs, **named)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The sum's answer, as `summed`."""
        return self.summed(*inputs, **named)


def _adapt(networks: Sequence[Clone], loss: Tensor, allowed: Adapting) -> None:
    if loss.numel() != 1:
        raise UsageError(f"clones adapt to a loss that is one number, not {list(loss.shape)}; take its mean.")
    own = [dict(network.named_parameters()) for network in networks]
    weights = [{name: tensor for name, tensor in every.items() if is_weight(tensor)} for every in own]
    moving = [[tensor for tensor in every.values() if tensor.requires_grad] for every in weights]
    known: list[Tensor | None] = []
    if loss.requires_grad and any(moving):
        second, flat = not allowed.first_order, [tensor for tensors in moving for tensor in tensors]
        known = list(torch.autograd.grad(loss, flat, create_graph=second, allow_unused=True))
    if all(gradient is None for gradient in known):
        raise UsageError(
            "the loss depends on no weight of the clones, so that they cannot adapt to it: compute it from what "
            "these clones answer, with gradients recorded, after their last step."
        )
    found, steps = iter(known), []
    for network, every, ours in zip(networks, own, weights, strict=True):
        gradients = {name: next(found) for name, tensor in ours.items() if tensor.requires_grad}
        if any(gradient is not None for gradient in gradients.values()):
            _check_allowed(ours, gradients, allowed)
            steps.append((network, [gradients.get(name) for name in every]))
    for network, along in steps:
        network.step(along)


def _check_allowed(weights: dict[str, Tensor], gradients: dict[str, Tensor | None], allowed: Adapting) -> None:
    """Raises UsageError where a weight stays behind without leave."""
    unused = allowed.allow_nograd if allowed.allow_unused is None else allowed.allow_unused
    for name in weights:
        if name not in gradients and not allowed.allow_nograd:
            raise UsageError(f"{name!r} requires no gradient; allow_nograd=True adapts the others and leaves it.")
        if name in gradients and gradients[name] is None and not unused:
            raise UsageError(f"the loss does not depend on {name!r}; allow_unused=True adapts the others.")
