"""MetaSum, meta: an initialisation from which networks can be trained apart, not knowing each other, and be added.

MAML's outer loop (Finn et al. 2017, arXiv:1703.03400) with one more term: the loss of the sum of the adapted networks,
differentiated through all adaptations. In each episode several clones of θ_0 take K steps, each on a task of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import option
from metasum.config.words import Operator
from metasum.learners.adaptation import Clones
from metasum.learners.joint import ObjectiveConfig, sum_loss
from metasum.learners.learner import Learner, Start
from metasum.learners.networks import MetaSum
from metasum.learners.settings import BackendConfig, OperatorConfig
from metasum.learners.trainable import Backward
from metasum.types import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaConfig(OperatorConfig, BackendConfig, ObjectiveConfig):
    """How an initialisation is learnt from which networks can be trained apart and added."""

    meta_datasets: tuple[str, ...] = option(
        (), "Datasets that meta-training draws tasks from, separated by commas [default: the support]."
    )
    meta_operator: Operator = option(
        "average",
        "What meta-training makes of the clones. The average starts with logits of ordinary size, the sum with many "
        "times that; where layers are normalised, networks that can be averaged can be added.",
    )
    meta_steps: int = option(500, "Updates of the initialisation.", unit="steps", minimum=1)
    meta_learning_rate: float = option(1e-3, "Their step size at its highest.", above=0)
    meta_seed: int = option(0, "Seed of the tasks drawn (not of the first weights).", minimum=0, below=2**63)
    meta_batch_size: int = option(32, "Images in each inner step, and in each evaluation.", unit="images", minimum=2)
    inner_steps: int = option(5, "Steps that each clone takes apart.", unit="steps", minimum=1)
    inner_lr: float = option(0.1, "Step size of the clones.", above=0)
    inner_optimizer: Literal["sgd", "meta-sgd", "adam"] = option(
        "sgd", "How clones adapt; meta-sgd learns a rate for every weight."
    )
    first_order: bool = option(False, "Skip second derivatives in the gradient through the clones' steps.")
    partners: int = option(2, "Most networks that are added at once; each time 2 to so many.", minimum=2)
    permute_labels: bool = option(True, "Draw anew which output stands for which class.")
    rotate: bool = option(True, "Turn a task's images by a multiple of 90 degrees.")
    invert: bool = option(True, "Let dark and bright change places in half of the tasks.")
    task_classes: int | None = option(
        None, "Classes in a task [default: all that there are outputs for].", unit="classes", minimum=2
    )


class MetaLearntLearner(Learner):
    """L = CE(f(θ_t; x_t), y_t) + CE(f(θ_s; x_s), y_s), from a θ_0 that `MetaLearner` has learnt."""

    name = "metasum-meta"
    summary = "Trains each network alone, from an initialisation that is meta-learnt for sums of strangers."
    Config = MetaConfig
    start = Start.LEARNT

    @classmethod
    def needs_whole(cls, config: Any) -> None:
        return None


class MetaLearner(nn.Module):
    """L = Σ_i w_i CE(f(θ_i; x_i), y_i) + w_sum L_sum(θ_1 ⊕ θ_2 ⊕ …; x_1, y_1), θ_i adapted from θ_0.

    x_i are task i's evaluation images. With `symmetric`, L_sum is taken on every task's. Its gradient reaches θ_0
    through all adaptations. A step holds the activations of K forward passes of each network and, unless first
    order, of their backward passes.

    Args:
        networks: with one shared initialisation.
        objective: weights (the support's is every further partner's), reading and symmetry.
        inner_steps: K.
    """

    def __init__(self, networks: MetaSum, objective: ObjectiveConfig, *, inner_steps: int) -> None:
        super().__init__()
        self.networks, self.objective, self.inner_steps = networks, objective, inner_steps

    def training_step(self, *batches: Batch, backward: Backward = torch.Tensor.backward) -> dict[str, Tensor]:
        """Terms "target", "support" (the mean of all partners) and "sum" (the mean where symmetric), in nats per image.

        Args:
            batches: a task's each: K parts to adapt on and a last one to evaluate on, equal and in this order.
            backward: sends the loss's gradient on its way.
        """
        self.train()
        clones, evaluation = self.adapt(batches)
        settings = self.objective
        logits = [network(batch.images) for network, batch in zip(clones.networks, evaluation, strict=True)]
        own = [cross_entropy(answers, batch.labels) for answers, batch in zip(logits, evaluation, strict=True)]
        partners = torch.stack(own[1:]).mean()
        asked = len(own) if settings.symmetric else 1
        sums = [
            sum_loss(settings.reading, clones.summed(batch.images), batch.labels, logits=answers, loss=loss)
            for batch, answers, loss in zip(evaluation[:asked], logits[:asked], own[:asked], strict=True)
        ]
        third = torch.stack(sums).mean()
        backward(settings.target_weight * own[0] + settings.support_weight * partners + settings.sum_weight * third)
        return {"target": own[0].detach(), "support": partners.detach(), "sum": third.detach()}

    def adapt(self, batches: Sequence[Batch], *, first_order: bool | None = None) -> tuple[Clones, list[Batch]]:
        """Clones after K steps, each on its own batch's first K parts, and the parts that are left.

        Args:
            batches: as `training_step` takes them.
            first_order: [default: as the networks were made].
        """
        parts = [split_batch(batch, self.inner_steps + 1) for batch in batches]
        clones = self.networks.clone(len(batches), first_order=first_order)
        for step in range(self.inner_steps):
            losses = [
                cross_entropy(network(own[step].images), own[step].labels)
                for network, own in zip(clones.networks, parts, strict=True)
            ]
            clones.adapt(torch.stack(losses).sum())
        return clones, [own[-1] for own in parts]

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def before_measuring(self) -> None:
        """Nothing to do, where every process holds whole networks."""


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """`parts` equal batches, in order."""
    return [Batch(*part) for part in zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True)]
