"""Meta-Transfer Learning as a learner for sums: one frozen trunk, scaled and shifted for each dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from metasum.baselines.meta_transfer.base_training import base_trained, untrained
from metasum.baselines.meta_transfer.scale_shift import ScaleShift
from metasum.baselines.sharing import share_parameters
from metasum.config import UNSET, option
from metasum.errors import ArchitectureError
from metasum.learners.learner import Start
from metasum.learners.networks import MetaSum
from metasum.learners.settings import PlainOperatorConfig
from metasum.learners.trainable import Backward, Terms
from metasum.learners.written import WrittenLearner
from metasum.types import Batch
from metasum.weights.parameters import parameters_of, with_parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaTransferConfig(PlainOperatorConfig):
    """How Meta-Transfer Learning spends its steps."""

    pretraining_steps: int = option(
        UNSET,
        "Steps in which the trunk learns both datasets, before it is frozen.",
        unit="steps",
        filled="half of --steps; 0 with --init",
        minimum=0,
    )
    base_steps: int = option(10, "Gradient steps from the learnt classifier to a batch's own.", unit="steps", minimum=1)
    base_lr: float = option(0.05, "Their size.", above=0)


class MetaTransferLearner(WrittenLearner):
    """Before is f(Θ ⊙ Φ_t, θ'_t), after the sum of both networks' effective weights.

    In pretraining the trunk Θ, everything but the last layer, learns both datasets, with a classifier for each. These
    are discarded and Θ is frozen. From then on each dataset has scale and shift Φ and a classifier's start θ: half
    of a batch base-trains θ to θ', the loss on the other half moves Φ and θ.

    Args:
        networks: the pair; both keep their statistics, and share the trunk.
        config: how many calls of `training_step` there are before the trunk is frozen, and how a classifier is trained.
        seed: not looked at.

    Raises:
        ArchitectureError: the network does not end in a linear layer.
    """

    name = "meta-transfer"
    summary = "One trunk, trained and frozen, with scale and shift for each."
    paper = "Sun et al. 2019, arXiv:1812.02391"
    Config = MetaTransferConfig
    start = Start.SHARED
    candidates = {"learning_rate": (5e-4, 2e-3, 8e-3)}

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        self._last, head = list(networks.target.named_modules())[-1]
        if not isinstance(head, nn.Linear):
            raise ArchitectureError("meta-transfer needs a network that ends in a linear layer.")
        names = {f"{self._last}.weight", f"{self._last}.bias"}
        share_parameters(networks.target, networks.support, set(parameters_of(networks.target)) - names)
        scale_shift, classifier = dict[str, ScaleShift](), dict[str, nn.Linear]()
        for side in ("target", "support"):
            scale_shift[side] = ScaleShift(networks.target).to(head.weight)
            start = classifier[side] = untrained(head, head.out_features)
            self.register_buffer(f"trained_weight_{side}", start.weight.detach().clone())
            self.register_buffer(f"trained_bias_{side}", start.bias.detach().clone())
        self._scale_shift, self._classifier = scale_shift, classifier
        self.learnt = nn.ModuleList([*scale_shift.values(), *classifier.values()])  # where `parameters` finds them
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @classmethod
    def fill(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"pretraining_steps": 0 if values["init"] is not None else values["steps"] // 2}

    @property
    def pretraining(self) -> bool:
        """Whether the next step still trains the trunk."""
        return int(self.get_buffer("steps")) < int(self.config.pretraining_steps)

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward) -> Terms:
        """Terms "target" and "support", in nats per image: of the pretraining, then of the base-trained networks."""
        steps = self.get_buffer("steps")
        if self.pretraining:
            steps += 1
            return super().training_step(target, support, backward=backward)
        self.train()
        terms = dict[str, Tensor]()
        for side, batch in (("target", target), ("support", support)):
            half = len(batch.labels) // 2
            features = self._features(side, batch.images)
            own = self._classifier[side], features[:half], batch.labels[:half]
            weight, bias = base_trained(*own, self.config.base_steps, self.config.base_lr)
            loss = cross_entropy(linear(features[half:], weight, bias), batch.labels[half:])
            backward(loss)
            terms[side] = loss.detach()
            self.get_buffer(f"trained_weight_{side}").copy_(weight.detach())
            self.get_buffer(f"trained_bias_{side}").copy_(bias.detach())
        return terms

    def _features(self, side: str, images: Tensor) -> Tensor:
        """What the last layer is given, `[N, D]`; the gradient reaches Φ, not Θ."""
        network: nn.Module = getattr(self.networks, side)
        frozen = {name: tensor.detach() for name, tensor in parameters_of(network).items()}
        found: list[Tensor] = []
        hook = network.get_submodule(self._last).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            functional_call(network, self._scale_shift[side].effective(frozen), (images,))
        finally:
            hook.remove()
        return found[0]

    def written(self, side: str) -> nn.Module:
        """The network with scale and shift worked into its weights."""
        network: nn.Module = getattr(self.networks, side)
        own = parameters_of(network)
        if not self.pretraining:
            own = self._scale_shift[side].effective(own) | {
                f"{self._last}.weight": self.get_buffer(f"trained_weight_{side}"),
                f"{self._last}.bias": self.get_buffer(f"trained_bias_{side}"),
            }
        return with_parameters(network, own).eval()

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]
