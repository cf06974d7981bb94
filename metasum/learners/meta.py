"""MetaSum, meta: an initialisation from which networks can be trained apart, not knowing each other, and be added.

MAML's outer loop (Finn et al. 2017, arXiv:1703.03400) with one more term: the loss of the sum of the adapted networks,
differentiated through all adaptations. In each episode several clones of θ_0 take K steps, each on a task of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import ObjectiveConfig
from metasum.learners.adaptation import Clones
from metasum.learners.networks import MetaSum
from metasum.learners.objective import sum_loss
from metasum.learners.protocol import Backward
from metasum.types import Batch


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


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """`parts` equal batches, in order."""
    return [Batch(*part) for part in zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True)]
