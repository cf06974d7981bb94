"""MetaSum: two networks of one architecture, and the third that is their sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from metasum.arguments import check_between, checked
from metasum.errors import MetaSumError, UsageError, reason
from metasum.learners.adaptation import Adapting, Clone, Clones
from metasum.learners.detached import DetachedSum
from metasum.learners.inner_rules import inner_rule
from metasum.types import Parameters
from metasum.weights.composition import LearnedSum, Operator, keeps_functions, operator_named, task_arithmetic
from metasum.weights.inputs import Inputs
from metasum.weights.parameters import BufferSet, buffers_of, check_same_architecture, parameters_of, with_parameters
from metasum.weights.runner import Runner
from metasum.weights.shared_parts import check_equal, check_still_frozen, frozen_parts, keep_shared
from metasum.weights.statistics_policy import settle_statistics, side_by_side, sources_of
from metasum.weights.structure import summable_copy

MOST_CLONES = 1024


class MetaSum(nn.Module):
    """Target network θ_t, support network θ_s, and the network θ_t + θ_s, which has no weights of its own.

    Wraps any `nn.Module`, whatever it takes and answers, and never runs one wrongly: what the network's structure
    leaves open (layers in a plain list besides, hooks, checkpointing, a compiled wrapper) is compared with the network
    itself, its weights really overwritten, on the first inputs that the sum or a clone sees in train and in eval mode.
    That takes some passes of four entries, once, on copies: buffers, gradients and random state stay as they are, and
    hooks run. The summed network keeps batch-norm statistics of its own, so that a forward through it leaves those of
    target and support alone.

    Parts that are frozen (`requires_grad` False, while other weights are trained) and integer parameters are not added:
    both networks hold the same, and the sum keeps it.

    Args:
        model: the architecture and the initialisation of both networks; it is copied, never changed.
        support: the support's own initialisation, where it should differ from the target's.
        operator: what the third network is: "sum", "average", "task-arithmetic" (from the weights that the networks
            start from) or "learned" (a sum with a coefficient for each network and layer, trained with the rest).
        scaling: λ of task arithmetic.
        backend: library that runs the third network, and clones: "learn2learn", "torch" or "higher", refused where it
            would compute anything else than the network does [default: the first of them that is right].
        example: inputs to compare the backend on now, in both modes, rather than on the first that come: a tensor
            (images `[N, C, H, W]`), a tuple of what forward takes by position, or a dictionary of what it takes by
            name.
        shared: keep one network, from which target and support are cloned: what `clone` then makes start alike, and
            their loss moves this one initialisation.
        inner_optimizer: how clones adapt: "sgd", "meta-sgd" (with learnt rates) or "adam".
        lr: its step size.
        first_order: skip second derivatives in the gradient through `adapt`.
        allow_unused: let clones adapt to a loss that some of their weights have no part in [default: as
            `allow_nograd`].
        allow_nograd: let clones adapt though some of their weights require no gradient.

    Raises:
        ArchitectureError: `support` is of another architecture; or a frozen part or an integer parameter differs in it;
            the first difference is named. Or a submodule cannot be copied.
        UsageError: unknown operator, backend or inner optimizer; `shared` together with `support`; or a network that
            cannot be summed, or not in this backend (also raised at the first images): one sentence names the
            submodule, and the backend to take.

    Example:
        >>> networks = MetaSum(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))
        >>> loss = cross_entropy(networks.summed(images), labels)
        >>> loss.backward()  # reaches networks.target and networks.support alike
        >>> meta = MetaSum(model, shared=True, lr=0.1)
        >>> clones = meta.clone()
        >>> clones.adapt(cross_entropy(clones.target(x_t), y_t) + cross_entropy(clones.support(x_s), y_s))
        >>> cross_entropy(clones.summed(x_t), y_t).backward()  # through both adaptations, to meta.parameters()
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        support: nn.Module | None = None,
        operator: str = "sum",
        backend: str | None = None,
        example: Tensor | tuple[Any, ...] | Mapping[str, Any] | None = None,
        shared: bool = False,
        inner_optimizer: str = "sgd",
        lr: float = 0.1,
        first_order: bool = False,
        allow_unused: bool | None = None,
        allow_nograd: bool = False,
        scaling: float = 0.4,
    ) -> None:
        super().__init__()
        if shared and support is not None:
            raise UsageError("a shared initialisation leaves no room for the support's own.")
        self.operator = operator
        if operator == "task-arithmetic" and support is not None:
            raise UsageError("task arithmetic works on differences from one initialisation; the support has its own.")
        self.target = summable_copy(model)
        self.support = self.target if shared else summable_copy(model if support is None else support)
        check_same_architecture(
            [parameters_of(self.target), parameters_of(self.support)], names=["the target network", "the support"]
        )
        self._frozen = frozen_parts(self.target)
        check_equal([parameters_of(self.target), parameters_of(self.support)], self._frozen, "frozen")
        self._run_target = Runner(self.target, backend)
        self._run_support = self._run_target if shared else Runner(self.support, backend)
        self._statistics = BufferSet(buffers_of(model))
        self.shared, self.adapting = shared, Adapting(first_order, allow_unused, allow_nograd)
        self._combine = self._operator(operator, scaling)
        self.inner_rule = inner_rule(inner_optimizer, self.target, lr)
        if example is not None:
            try:
                self._run_target.check_both_modes(self.target, buffers_of(self.target), Inputs.of(example))
                self._run_support.check_both_modes(self.support, buffers_of(self.support), Inputs.of(example))
            except MetaSumError:
                raise
            except Exception as error:  # whatever the network's own code says to these inputs
                raise UsageError(f"example=: the network cannot be run on it ({reason(error)}).") from error

    @property
    def backend(self) -> str:
        """The library that runs the summed network: as asked for, or the first that no check has ruled out so far."""
        return self._run_target.backend

    @checked
    def clone(
        self,
        count: int = 2,
        *,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
    ) -> Clones:
        """Differentiable clones, a target and a support (and further partners), that adapt apart and can be added.

        learn2learn's `MAML.clone` for networks that are to be added. The clones' gradients reach this module's
        parameters through every step that they take; their batch-norm statistics are their own.

        Args:
            count: of clones; more than two only where the initialisation is shared.
            first_order, allow_unused, allow_nograd: [default: as this module was made].

        Raises:
            UsageError: fewer than two, or more than there are initialisations for.
        """
        check_between("count", count, 2, MOST_CLONES)
        if count > 2 and not self.shared:
            raise UsageError(f"{count} clones need one shared initialisation: MetaSum(model, shared=True).")
        given = {"first_order": first_order, "allow_unused": allow_unused, "allow_nograd": allow_nograd}
        adapting = self.adapting.changed(**given)
        target, support = (self.target, self._run_target), (self.support, self._run_support)
        return Clones(
            [
                Clone(model, self.inner_rule.start(), run, adapting)
                for model, run in [target, support, *[target] * (count - 2)][:count]
            ],
            lambda parameters, *inputs, **named: self.run_with(self._compose(parameters), *inputs, **named),
            adapting,
        )

    def _operator(self, name: str, scaling: float) -> Operator:
        if name == "learned":
            return LearnedSum({n: own for n, own in parameters_of(self.target).items() if n not in self._frozen})
        if name == "task-arithmetic":
            if not self.shared:  # a constant, that `to` moves with the rest
                self._start = BufferSet(parameters_of(self.target), persistent=False)
            return lambda sets: task_arithmetic(sets, self._initial(sets[0]), scaling=scaling)
        return operator_named(name, also=("learned", "task-arithmetic"))

    def _initial(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Weights that task arithmetic starts from, under these names."""
        start = parameters_of(self.target) if self.shared else self._start.by_name()
        return {name: start[name] for name in names}

    def _compose(self, sets: Sequence[Parameters], combine: Operator | None = None) -> dict[str, Tensor]:
        """What the operator (or `combine`) makes of parameter sets; frozen parts are the first's."""
        for network in (self.target, self.support):
            check_still_frozen(network, self._frozen)
        check_same_architecture(sets)
        return keep_shared(sets, combine or self._combine, self._frozen)

    @property
    def coefficients(self) -> nn.Parameter | None:
        """Of a learned sum, `[networks, layers]`."""
        return self._combine.coefficients if isinstance(self._combine, LearnedSum) else None

    def summed_parameters(self) -> dict[str, Tensor]:
        """θ_t ⊕ θ_s by name, differentiable with respect to both networks' parameters."""
        return self._compose([parameters_of(self.target), parameters_of(self.support)])

    @checked
    def composed(self, operator: str | None = None) -> dict[str, Tensor]:
        """θ_t ⊕ θ_s by name, as `operator` makes it [default: the one trained with], differentiable likewise.

        Raises:
            UsageError: an operator that needs more than the two parameter sets, or an unknown one.
        """
        combine = None if operator in (None, self.operator) else operator_named(str(operator), also=(self.operator,))
        return self._compose([parameters_of(self.target), parameters_of(self.support)], combine)

    def sum_statistics(self) -> dict[str, Tensor]:
        """The buffers that the summed network keeps in training, by name: the very tensors."""
        return self._statistics.by_name()

    def summed(self, *inputs: Any, **named: Any) -> Any:
        """What the summed network answers (of images: logits `[N, classes]`), with gradients to both networks.

        It is called as the model is, with one input or several, by position or by name. In train mode batch
        normalisation uses the batch's own statistics and updates the sum's running ones.
        """
        return self.run_with(self.summed_parameters(), *inputs, **named)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The summed network's answer, as `summed`."""
        return self.summed(*inputs, **named)

    def detached_sum(self, sets: Sequence[Parameters] | None = None) -> DetachedSum:
        """The summed network for one training step, whose gradient is handed to both networks in one go.

        Args:
            sets: two parameter sets to add in place of the target's and the support's.
        """
        if sets is None:
            return DetachedSum(self.run_with, self.summed_parameters())
        check_equal(sets, self._frozen, "frozen")
        return DetachedSum(self.run_with, self._compose(sets))

    def run_with(self, parameters: Parameters, *inputs: Any, **named: Any) -> Any:
        """What a network with these parameters and the sum's own statistics answers."""
        return self._run_target(self.target, parameters, self._statistics.by_name(), *inputs, **named)

    @checked
    def summed_network(
        self, calibration: Iterable[Tensor], *, operator: str | None = None, statistics: str = "recalibrate"
    ) -> nn.Module:
        """The summed network as a module of its own, in eval mode, cut off from the gradient.

        Args:
            calibration: unlabelled images `[N, C, H, W]`, read where `statistics` is "recalibrate".
            operator: another operator than the one trained with.
            statistics: whose batch-norm statistics it normalises by: "recalibrate" computes them on
                `calibration`; "own" takes every network's, where no channel is shared; "target" and "support" copy
                that network's; "learned" takes those kept in training.

        Raises:
            UsageError: an unknown policy; "own" where the sum cannot have them; or "learned" where training never ran
                the sum.
        """
        network = with_parameters(self.target, self.composed(operator))
        sources = sources_of(
            {"target": self.target, "support": self.support},
            learned=self._statistics.by_name(),
            own=side_by_side([self.target, self.support]) if keeps_functions(operator or self.operator) else None,
        )
        return settle_statistics(network, statistics, calibration, sources)
