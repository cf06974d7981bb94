"""MetaSum, joint: target and support network trained together with the loss of their sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import Checked, option
from metasum.errors import UsageError
from metasum.learners.detached import DetachedSum
from metasum.learners.learner import Learner
from metasum.learners.networks import MetaSum
from metasum.learners.regularised import RegularisationConfig, distance, keep_quiet, sharpness_aware
from metasum.learners.settings import BackendConfig, OperatorConfig
from metasum.learners.trainable import Backward, Terms
from metasum.types import Batch, Parameters
from metasum.weights.parameters import BufferSet, parameters_of
from metasum.weights.storage import load_like


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsConfig(Checked):
    """How much each network's own loss counts."""

    target_weight: float = option(1.0, "Weight of the target network's own loss.", minimum=0)
    support_weight: float = option(1.0, "Weight of the support network's own loss.", minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(WeightsConfig):
    """The three terms of MetaSum."""

    reading: Literal["cross-entropy", "gap", "consistency"] = option(
        "cross-entropy",
        "What the third term asks of the sum on the target's images: cross-entropy to be right; gap to have "
        "the target network's loss; consistency to predict what the target network predicts.",
    )
    symmetric: bool = option(False, "Ask the same of the sum on the support's images.")
    sum_weight: float = option(1.0, "Weight of the summed network's loss.", minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointConfig(RegularisationConfig, BackendConfig, OperatorConfig, ObjectiveConfig):
    """What joint MetaSum leaves open."""

    pool: tuple[str, ...] = option(
        (),
        "Weights files of finished networks, separated by commas; the third term adds one of them, drawn at each "
        "step, in the partner's place.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool and self.sum_weight == 0:
            raise UsageError("--pool says nothing with --sum-weight 0.")


class JointLearner(Learner):
    """L = w_t CE(f(θ_t; x_t), y_t) + w_s CE(f(θ_s; x_s), y_s) + w_sum L_sum(θ_t ⊕ θ_s; x_t, y_t).

    With `symmetric`, L_sum is added for the support's images too. The gradient of L_sum reaches θ_t and θ_s alike.
    A step costs one forward and backward for each term. A term's backward runs before the next term's forward, so
    that one term's activations are in memory at a time (with the reading "gap" two, whose gradients are coupled).

    Args:
        networks: the pair to train; as they come they are θ_0.
        config: weights, reading and symmetry; pull to θ_0, sharpness-aware steps (which cost twice as much), and quiet
            on foreign images.
        seed: not looked at.
        pool: parameter sets of finished networks, constants: L_sum adds one of them, drawn at each step, to θ_t (and
            to θ_s, with `symmetric`) in the partner's place [default: those in the files that `config` names].
    """

    name = "metasum"
    summary = "Trains both networks together with the loss of their sum."
    Config: ClassVar[type[Checked]] = JointConfig

    def __init__(
        self, networks: MetaSum, config: JointConfig, *, seed: int = 0, pool: Sequence[Parameters] | None = None
    ) -> None:
        super().__init__(networks, config, seed=seed)
        self._pool = [load_like(networks.target, Path(file)) for file in config.pool] if pool is None else pool
        pulled = (networks.target, networks.support) if config.anchor else ()
        self._start = nn.ModuleList(BufferSet(parameters_of(network), persistent=False) for network in pulled)

    @classmethod
    def needs_whole(cls, config: Any) -> str | None:
        return "--pool" if config.pool else "--quiet-weight" if config.quiet_weight else None

    @property
    def trains_sum(self) -> bool:
        return bool(self.config.sum_weight > 0)

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward) -> Terms:
        """Terms "target", "support", "sum" and, where asked for, "sum_support", "…_quiet" (nats an image), "anchor"."""
        stranger = self._pool[int(torch.randint(len(self._pool), ()))] if self._pool else None
        if not self.config.sharpness:
            return self._gradients(target, support, stranger, backward)
        return sharpness_aware(
            self.parameter_groups(),
            self.config.sharpness,
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
        config, networks, terms = self.config, self.networks, dict[str, Tensor]()
        sums = self._sums(stranger)
        sides: list[tuple[str, nn.Module, Batch, float, str | None]] = [
            ("target", networks.target, target, config.target_weight, "sum"),
            ("support", networks.support, support, config.support_weight, "sum_support" if config.symmetric else None),
        ]
        for name, network, batch, weight, sum_name in sides:
            logits = network(batch.images)
            loss = cross_entropy(logits, batch.labels)
            terms[name] = loss.detach()
            if sums is None or sum_name is None:
                backward(weight * loss)
                continue
            if config.reading != "gap":  # the gap's gradient passes through this loss too: one backward for both
                backward(weight * loss)
            third = sum_loss(config.reading, sums[name](batch.images), batch.labels, logits=logits, loss=loss)
            terms[sum_name] = third.detach()
            both = weight * loss + config.sum_weight * third
            backward(both if config.reading == "gap" else config.sum_weight * third)
        for summed in dict.fromkeys(sums.values() if sums else ()):
            summed.hand_on()
        return terms | self._carried_over(target, support, backward)

    def _carried_over(self, target: Batch, support: Batch, backward: Backward) -> dict[str, Tensor]:
        """The terms that may carry over from one partner to another, with their gradients."""
        networks, terms = self.networks, dict[str, Tensor]()
        if quiet := self.config.quiet_weight:
            terms["target_quiet"] = keep_quiet(networks.target, target, support, quiet, backward)
            terms["support_quiet"] = keep_quiet(networks.support, support, target, quiet, backward)
        if anchor := self.config.anchor:
            starts = [start.by_name() for start in self._start if isinstance(start, BufferSet)]
            own = (networks.target, networks.support)
            pull = torch.stack([distance(*pair) for pair in zip(own, starts, strict=True)]).sum()
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
        if self.config.symmetric:
            sets["support"] = [stranger, parameters_of(networks.support)]
        return {name: networks.detached_sum(pair) for name, pair in sets.items()}


class SymmetricLearner(JointLearner):
    """Joint MetaSum whose sum is to do well on the support's images, too."""

    name = "metasum-symmetric"
    summary = "MetaSum whose sum is to do well on the support, too."
    preset = {"symmetric": True}


def sum_loss(reading: str, summed_logits: Tensor, labels: Tensor, *, logits: Tensor, loss: Tensor) -> Tensor:
    """L_sum on one batch, a scalar in nats per image: "the sum should do on the target what the target does".

    Args:
        reading: "cross-entropy": the sum's own cross-entropy. "gap": how far it is from the network's alone,
            in absolute value; its gradient reaches the network alone as well as the sum. "consistency": the sum's
            cross-entropy against the network's own predicted distribution, which is held constant.
        summed_logits: `[N, classes]` of the summed network.
        labels: `[N]`, int64.
        logits: `[N, classes]` of the network alone on the same images.
        loss: the network's own cross-entropy on them, a scalar.
    """
    if reading == "cross-entropy":
        return cross_entropy(summed_logits, labels)
    if reading == "gap":
        return (cross_entropy(summed_logits, labels) - loss).abs()
    if reading == "consistency":
        return cross_entropy(summed_logits, logits.detach().softmax(dim=-1))
    raise ValueError(f"unknown reading {reading!r}")
