"""MetaSum: two networks of one architecture, and the third that is their sum."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from metasum.types import Parameters
from metasum.weights.composition import operator_named
from metasum.weights.functional import functional_call, import_backend
from metasum.weights.parameters import buffers_of, check_same_architecture, parameters_of, with_parameters
from metasum.weights.statistics import settle_statistics


class MetaSum(nn.Module):
    """Target network θ_t, support network θ_s, and the network θ_t + θ_s, which has no weights of its own.

    Wraps any `nn.Module` whose forward takes one tensor. (A module that keeps one of its own bound methods in an
    attribute needs the backend "torch": the other two would call the original. So do the few that higher cannot
    patch, `nn.ParameterList` among them.) The summed network keeps batch-norm statistics of its own,
    so that a forward through it leaves those of target and support alone.

    Args:
        model: the architecture and the initialisation of both networks; it is copied, never changed.
        support: the support's own initialisation, where it should differ from the target's.
        operator: "sum" or "average": what the third network is.
        backend: library that runs the third network: "learn2learn", "torch" or "higher".

    Raises:
        ArchitectureError: `support` is of another architecture; the first difference is named.
        UsageError: unknown operator or backend.

    Example:
        >>> networks = MetaSum(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))
        >>> loss = cross_entropy(networks.summed(images), labels)
        >>> loss.backward()  # reaches networks.target and networks.support alike
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        support: nn.Module | None = None,
        operator: str = "sum",
        backend: str = "learn2learn",
    ) -> None:
        super().__init__()
        import_backend(backend)
        self.operator, self.backend = operator, backend
        self._compose = operator_named(operator)
        self.target = copy.deepcopy(model)
        self.support = copy.deepcopy(model if support is None else support)
        check_same_architecture(
            [parameters_of(self.target), parameters_of(self.support)], names=["the target network", "the support"]
        )
        self._statistics = _BufferSet(buffers_of(model))

    def summed_parameters(self) -> dict[str, Tensor]:
        """θ_t ⊕ θ_s by name, differentiable with respect to both networks' parameters."""
        return self._compose([parameters_of(self.target), parameters_of(self.support)])

    def summed(self, images: Tensor) -> Tensor:
        """Logits `[N, classes]` of the summed network, with gradients to both networks.

        In train mode batch normalisation uses the batch's own statistics and updates the sum's running ones.
        """
        return self.run_with(self.summed_parameters(), images)

    def detached_sum(self) -> DetachedSum:
        """The summed network for one training step, whose gradient is handed to both networks in one go."""
        return DetachedSum(self)

    def run_with(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Logits of a network with these parameters and the sum's own statistics."""
        return functional_call(self.target, parameters, self._statistics.by_name(), images, backend=self.backend)

    def summed_network(
        self, calibration: Iterable[Tensor], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> nn.Module:
        """The summed network as a module of its own, in eval mode, cut off from the gradient.

        Args:
            calibration: unlabelled images `[N, C, H, W]`, read where `statistics` is "recalibrate".
            operator: another operator than the one trained with.
            statistics: whose batch-norm statistics it normalises by: "recalibrate" computes them on
                `calibration`; "target" and "support" copy that network's; "learned" takes those kept in training.

        Raises:
            UsageError: an unknown policy; or "learned" where training never ran the sum.
        """
        composed = operator_named(operator or self.operator)([parameters_of(self.target), parameters_of(self.support)])
        network = with_parameters(self.target, composed)
        sources = {
            "target": buffers_of(self.target),
            "support": buffers_of(self.support),
            "learned": self._statistics.by_name(),
        }
        return settle_statistics(network, statistics, calibration, sources)


class DetachedSum:
    """θ_t ⊕ θ_s as leaves of the graph: the same gradient as `MetaSum.summed`, gathered here before it is handed on.

    Walking back through the network and adding to both networks' gradients at once takes a fifth longer than
    doing one after the other (width 1.0, CPU). The composition is made once, for any number of forward passes.

    Example:
        >>> summed = networks.detached_sum()
        >>> cross_entropy(summed(images), labels).backward()
        >>> summed.hand_on()  # now in the gradients of networks.target and networks.support
    """

    def __init__(self, networks: MetaSum) -> None:
        self._networks = networks
        self._composed = networks.summed_parameters()
        self._leaves = {name: tensor.detach().requires_grad_() for name, tensor in self._composed.items()}

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `[N, classes]`; gradients stay with the composition until `hand_on`."""
        return self._networks.run_with(self._leaves, images)

    def hand_on(self) -> None:
        """Adds what was gathered to both networks' gradients, once."""
        reached = [name for name, leaf in self._leaves.items() if leaf.grad is not None]
        torch.autograd.backward([self._composed[n] for n in reached], [self._leaves[n].grad for n in reached])


class _BufferSet(nn.Module):
    """Copies of a network's buffers, kept where `state_dict` and `.to` find them."""

    def __init__(self, buffers: dict[str, Tensor]) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name.replace(".", "/"), buffer.detach().clone())

    def by_name(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): buffer for name, buffer in self.named_buffers()}
