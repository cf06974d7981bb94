"""Networks that can be added to ones they have never met: each in channels of its own, and quiet on foreign images.

A sum of strangers has two enemies. Inside, one network's weights disturb the features that the other's compute: in
slots of their own they share no weight, and the sum computes f(θ_a; x) + f(θ_b; x). At the output, a network has
opinions on images that are none of its business: `silence.py` teaches it to have none.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from metasum.config import option
from metasum.errors import UsageError
from metasum.learners.learner import Start
from metasum.learners.networks import MetaSum
from metasum.learners.settings import PlainOperatorConfig
from metasum.learners.silence import SilenceConfig, SilentLearner
from metasum.learners.written import WrittenLearner
from metasum.networks.slots import Slot
from metasum.types import Sides


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotsConfig(PlainOperatorConfig, SilenceConfig):
    """Which channels a network has to itself, and how quiet it is."""

    slots: int = option(
        2, "Parts that the channels are divided into; networks in different slots have no weight in common.", minimum=2
    )
    slot: int = option(
        0,
        "The target network's slot, from 0; the support takes the next. `metasum experiment` numbers its targets.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slot >= self.slots:
            raise UsageError(f"--slot {self.slot}: with --slots {self.slots} the last one is {self.slots - 1}.")


class SlotsLearner(SilentLearner, WrittenLearner):
    """Two thin networks are trained to be quiet; target, support and sum are whole ones that hold them.

    Args:
        networks: the pair; its networks are replaced by the thin ones.
        config: slots, and how quiet.
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

    @classmethod
    def against_own_heads(cls) -> str:
        return "gives each network channels of its own: with its own head it would be that network alone"

    @classmethod
    def suited(cls, recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """With N slots, N times the learning rate, which is one for the whole network.

        Adam's best step for a hidden weight falls as the number of inputs grows (Yang et al. 2022, arXiv:2203.03466,
        table 3), and a thin network has an N-th of them.
        """
        slots = given.get("slots", SlotsConfig.slots)
        return {**recipe, "learning_rate": recipe["learning_rate"] * slots}

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        self._whole = (copy.deepcopy(networks.target),)  # in a tuple: its weights are not trained
        own = (config.slot, (config.slot + 1) % config.slots)
        self._slots = Sides(*(Slot(networks.target, index, config.slots) for index in own))
        networks.target = self._slots.target.start(networks.target)
        networks.support = self._slots.support.start(networks.support)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlotsLearner:
        """What `to` does to the learner, it does to the whole network, whose weights are not its own, too."""
        self._whole[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def written(self, side: str) -> nn.Module:
        """The whole network that is the thin one in its slot and 0 elsewhere."""
        slot, thin, (whole,) = getattr(self._slots, side), getattr(self.networks, side), self._whole
        network = copy.deepcopy(whole)
        network.load_state_dict(slot.place(thin.state_dict(), whole.state_dict()))
        return network.eval()
