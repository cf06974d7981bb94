"""MetaSum, joint: target and support network trained together with the loss of their sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import ObjectiveConfig, RegularisationConfig
from metasum.learners.networks import DetachedSum, MetaSum
from metasum.learners.objective import sum_loss
from metasum.learners.protocol import Backward, PairLearner
from metasum.learners.regularised import distance, keep_quiet, sharpness_aware
from metasum.types import Batch, Parameters
from metasum.weights.parameters import parameters_of


class JointLearner(PairLearner):
    """L = w_t CE(f(θ_t; x_t), y_t) + w_s CE(f(θ_s; x_s), y_s) + w_sum L_sum(θ_t ⊕ θ_s; x_t, y_t).

    With `symmetric`, L_sum is added for the support's images too. The gradient of L_sum reaches θ_t and θ_s alike.
    A step costs one forward and backward for each term. A term's backward runs before the next term's forward, so
    that one term's activations are in memory at a time (with the reading "gap" two, whose gradients are coupled).

    Args:
        networks: the pair to train; as they come they are θ_0.
        objective: weights, reading and symmetry.
        regularisation: pull to θ_0, sharpness-aware steps (which cost twice as much), and quiet on foreign images.
        pool: parameter sets of finished networks, constants: L_sum adds one of them, drawn at each step, to θ_t (and
            to θ_s, with `symmetric`) in the partner's place.
    """

    def __init__(
        self,
        networks: MetaSum,
        objective: ObjectiveConfig,
        regularisation: RegularisationConfig | None = None,
        *,
        pool: Sequence[Parameters] = (),
    ) -> None:
        super().__init__(networks)
        self.objective, self._regularisation = objective, regularisation or RegularisationConfig()
        self._pool = pool
        self._start = [
            {name: tensor.detach().clone() for name, tensor in parameters_of(network).items()}
            for network in ((networks.target, networks.support) if self._regularisation.anchor else ())
        ]

    @property
    def trains_sum(self) -> bool:
        return self.objective.sum_weight > 0

    def training_step(
        self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward
    ) -> dict[str, Tensor]:
        """Terms "target", "support", "sum" and, where asked for, "sum_support", "…_quiet" (nats an image), "anchor"."""
        stranger = self._pool[int(torch.randint(len(self._pool), ()))] if self._pool else None
        if not self._regularisation.sharpness:
            return self._gradients(target, support, stranger, backward)
        return sharpness_aware(
            self.parameter_groups(),
            self._regularisation.sharpness,
            lambda: self._first_look(target, support, stranger),
            lambda: self._gradients(target, support, stranger, backward),
        )

    def _first_look(self, target: Batch, support: Batch, stranger: Parameters | None) -> None:
        """Gradients as they are here, with running statistics left as they were."""
        before = [(buffer, buffer.clone()) for buffer in self.buffers()]
        self._gradients(target, support, stranger, torch.Tensor.backward)
        for buffer, values in before:
            buffer.copy_(values)

    def _gradients(
        self, target: Batch, support: Batch, stranger: Parameters | None, backward: Backward
    ) -> dict[str, Tensor]:
        self.train()
        settings, networks, terms = self.objective, self.networks, dict[str, Tensor]()
        sums = self._sums(stranger)
        sides: list[tuple[str, nn.Module, Batch, float, str | None]] = [
            ("target", networks.target, target, settings.target_weight, "sum"),
            (
                "support",
                networks.support,
                support,
                settings.support_weight,
                "sum_support" if settings.symmetric else None,
            ),
        ]
        for name, network, batch, weight, sum_name in sides:
            logits = network(batch.images)
            loss = cross_entropy(logits, batch.labels)
            terms[name] = loss.detach()
            if sums is None or sum_name is None:
                backward(weight * loss)
                continue
            if settings.reading != "gap":  # the gap's gradient passes through this loss too: one backward for both
                backward(weight * loss)
            third = sum_loss(settings.reading, sums[name](batch.images), batch.labels, logits=logits, loss=loss)
            terms[sum_name] = third.detach()
            both = weight * loss + settings.sum_weight * third
            backward(both if settings.reading == "gap" else settings.sum_weight * third)
        for summed in dict.fromkeys(sums.values() if sums else ()):
            summed.hand_on()
        if quiet := self._regularisation.quiet_weight:
            terms["target_quiet"] = keep_quiet(networks.target, target, support, quiet, backward)
            terms["support_quiet"] = keep_quiet(networks.support, support, target, quiet, backward)
        if anchor := self._regularisation.anchor:
            own = (networks.target, networks.support)
            pull = torch.stack([distance(*pair) for pair in zip(own, self._start, strict=True)]).sum()
            backward(anchor * pull)
            terms["anchor"] = anchor * pull.detach()
        return terms

    def _sums(self, stranger: Parameters | None) -> dict[str, DetachedSum] | None:
        """What L_sum runs on the target's and on the support's images: θ_t ⊕ θ_s, or each with a stranger."""
        if not self.trains_sum:
            return None
        networks = self.networks
        if stranger is None:
            return dict.fromkeys(("target", "support"), networks.detached_sum())
        sets = {"target": [parameters_of(networks.target), stranger]}
        if self.objective.symmetric:
            sets["support"] = [stranger, parameters_of(networks.support)]
        return {name: networks.detached_sum(pair) for name, pair in sets.items()}
