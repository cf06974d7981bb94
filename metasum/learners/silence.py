"""Networks that have no opinion on foreign images, so that a stranger's logits can be added to theirs.

Outlier Exposure (Hendrycks et al. 2019, arXiv:1812.04606, section 3) teaches a classifier to be uniform on images of
another dataset; what it is taught on decides how far that carries. Photographs teach silence on photographs.
Look-alikes need near misses of a network's own images, and characters of other scripts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import Checked, option
from metasum.errors import UsageError
from metasum.learners.learner import Learner
from metasum.learners.near_misses import KINDS, near_misses
from metasum.learners.networks import MetaSum
from metasum.learners.regularised import keep_quiet, opinion
from metasum.learners.trainable import Backward, Terms
from metasum.types import Batch, ImageSource

OWN = "own"
"""The word of `--quiet-on` for images made of a network's own; NOTHING: for the partner's images alone."""
NOTHING = "none"
ALWAYS_THERE = (OWN, "letters", "glyphs")
"""What networks are quiet on unless told otherwise, without what one of them is trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SilenceConfig(Checked):
    """How quiet a network is, and on what."""

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
        if self.further and not self.quiet_weight:
            raise UsageError("--quiet-on says nothing with --quiet-weight 0.")
        if NOTHING in self.quiet_on and len(self.quiet_on) > 1:
            raise UsageError(f"--quiet-on {','.join(self.quiet_on)}: {NOTHING} goes with nothing else.")

    @property
    def further(self) -> tuple[str, ...]:
        """What `quiet_on` names, but for the word that says nothing."""
        return tuple(name for name in self.quiet_on if name != NOTHING)


class SilentLearner(Learner):
    """L_t = CE(f(θ_t; x_t), y_t) + q KL(uniform ‖ f(θ_t; foreign)), and L_s its mirror image.

    Foreign images are the partner's and what `quiet_on` names, twice as many as a batch has, and are normalised in one
    batch with one's own; with nothing further, they are the partner's alone, normalised apart and mixed
    (`keep_quiet`). No gradient of one network depends on the other's weights: the support is there for its images.
    """

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        self._further: list[ImageSource] = []

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
