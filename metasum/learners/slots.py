"""Networks that can be added to ones they have never met: each in channels of its own, and quiet on foreign images.

A sum of strangers has two enemies. Inside, one network's weights disturb the features that the other's compute: in
slots of their own they share no weight, and the sum computes f(θ_a; x) + f(θ_b; x). At the output, a network has
opinions on images that are none of its business: Outlier Exposure (Hendrycks et al. 2019, arXiv:1812.04606, section 3)
teaches it to have none, on images of any other dataset, and that carries over to datasets never seen.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import option
from metasum.errors import UsageError
from metasum.learners.learner import Backward, PlainOperatorConfig, Start, Terms, WrittenLearner
from metasum.learners.near_misses import KINDS, near_misses
from metasum.learners.networks import MetaSum
from metasum.learners.regularised import keep_quiet, opinion
from metasum.networks.slots import Slot
from metasum.types import Batch, ImageSource, Sides

OWN = "own"
"""The word of `--quiet-on` for images made of a network's own; NOTHING: for the partner's images alone."""
NOTHING = "none"
ALWAYS_THERE = (OWN, "letters", "glyphs")
"""What networks are quiet on unless told otherwise, without what one of them is trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotsConfig(PlainOperatorConfig):
    """Which channels a network has to itself, and how quiet it is."""

    slots: int = option(
        2, "Parts that the channels are divided into; networks in different slots have no weight in common.", minimum=2
    )
    slot: int = option(
        0,
        "The target network's slot, from 0; the support takes the next. `metasum experiment` numbers its targets.",
        minimum=0,
    )
    quiet_weight: float = option(
        0.5, "Weight of the loss that asks each network for no opinion on the other dataset's images.", minimum=0
    )
    quiet_on: tuple[str, ...] = option(
        (),
        "What else to have no opinion on, separated by commas: own (its own images in pieces, laid over each other, "
        "inverted, turned, mirrored or warped) and names of datasets; or none.",
        filled=f"{','.join(ALWAYS_THERE)}, without what networks are trained on",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slot >= self.slots:
            raise UsageError(f"--slot {self.slot}: with --slots {self.slots} the last one is {self.slots - 1}.")
        if self.further and not self.quiet_weight:
            raise UsageError("--quiet-on says nothing with --quiet-weight 0.")
        if NOTHING in self.quiet_on and len(self.quiet_on) > 1:
            raise UsageError(f"--quiet-on {','.join(self.quiet_on)}: {NOTHING} goes with nothing else.")

    @property
    def further(self) -> tuple[str, ...]:
        """What `quiet_on` names, but for the word that says nothing."""
        return tuple(name for name in self.quiet_on if name != NOTHING)


class SlotsLearner(WrittenLearner):
    """L_t = CE(f(θ_t; x_t), y_t) and the terms of `keep_quiet` on x_s, and L_s its mirror image.

    What is trained are two thin networks; target, support and sum are whole ones that hold them. No gradient of one
    depends on the other's weights: the support is there for its images.

    Args:
        networks: the pair; its networks are replaced by the thin ones.
        config: slots, and q.
        seed: not looked at.

    Raises:
        ArchitectureError: the network cannot be divided so.
    """

    name = "slots"
    summary = "Each network in channels of its own, and quiet on foreign images."
    paper = "Hendrycks et al. 2019, Outlier Exposure, arXiv:1812.04606"
    Config = SlotsConfig
    start = Start.SHARED
    numbered, places = "slot", "slots"
    candidates = {"learning_rate": (1e-3, 2e-3, 4e-3)}  # thin networks want more than whole ones

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        self._further: list[ImageSource] = []
        self._whole = (copy.deepcopy(networks.target),)  # in a tuple: its weights are not trained
        own = (config.slot, (config.slot + 1) % config.slots)
        self._slots = Sides(*(Slot(networks.target, index, config.slots) for index in own))
        networks.target = self._slots.target.take(networks.target)
        networks.support = self._slots.support.take(networks.support)

    @classmethod
    def fill(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return cls.for_strangers([values["target"]], values)

    @classmethod
    def for_strangers(cls, targets: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
        trained_on = {*targets, values["support"]}
        quiet = values.get("quiet_weight", 1) > 0
        return {"quiet_on": tuple(name for name in ALWAYS_THERE if quiet and name not in trained_on)}

    @classmethod
    def further_data(cls, config: Any) -> tuple[str, ...]:
        return tuple(name for name in config.further if name != OWN)

    def read_further(self, sources: Mapping[str, ImageSource]) -> None:
        self._further = list(sources.values())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlotsLearner:
        """What `to` does to the learner, it does to the whole network, whose weights are not its own, too."""
        self._whole[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward) -> Terms:
        """Terms "target", "support" and, unless q is 0, "target_quiet", "support_quiet" (the KL), in nats per image."""
        self.train()
        terms = dict[str, Tensor]()
        for side, network, batch, foreign in (
            ("target", self.networks.target, target, support),
            ("support", self.networks.support, support, target),
        ):
            if self.config.further:
                terms |= self._among_foreign(side, network, batch, foreign, backward)
                continue
            loss = cross_entropy(network(batch.images), batch.labels)
            backward(loss)
            terms[side] = loss.detach()
            if quiet := self.config.quiet_weight:
                terms[f"{side}_quiet"] = keep_quiet(network, batch, foreign, quiet, backward)
        return terms

    def _among_foreign(self, side: str, network: nn.Module, batch: Batch, foreign: Batch, backward: Backward) -> Terms:
        """CE on a batch and q KL(uniform ‖ softmax) on twice as many foreign images, all normalised together."""
        logits = network(torch.cat([batch.images, self._foreign(batch.images, foreign.images)]))
        loss, loudness = cross_entropy(logits[: batch.size], batch.labels), opinion(logits[batch.size :])
        backward(loss + self.config.quiet_weight * loudness)
        return {side: loss.detach(), f"{side}_quiet": loudness.detach()}

    def _foreign(self, own: Tensor, partner: Tensor) -> Tensor:
        """Twice as many as `own`: equal shares of the partner's, of each further dataset's and of each near miss."""
        count, kinds = 2 * len(own), len(KINDS) if OWN in self.config.further else 0
        near = round(count * kinds / (kinds + 1 + len(self._further)))
        first, *others = torch.arange(count - near).tensor_split(1 + len(self._further))
        images = [near_misses(own, near), partner[torch.randint(len(partner), (len(first),))]]
        for source, part in zip(self._further, others, strict=True):
            drawn = torch.randint(len(source), (len(part),))
            images.append(source.training_batch(drawn, torch.default_generator).images.to(own))
        return torch.cat(images)

    def written(self, side: str) -> nn.Module:
        """The whole network that is the thin one in its slot and 0 elsewhere."""
        slot, thin, (whole,) = getattr(self._slots, side), getattr(self.networks, side), self._whole
        network = copy.deepcopy(whole)
        network.load_state_dict(slot.place(thin.state_dict(), whole.state_dict()))
        return network.eval()
