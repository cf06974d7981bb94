"""Two heads on one trunk (Caruana 1997, "Multitask Learning"): the limit of proximity, and what a sum cannot beat.

The trunk's parameters are one set, in both networks; each dataset keeps its own head, and its own batch-norm
statistics, as in the two networks that proximity pulls together.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from metasum.baselines.sharing import SharingLearner, share_parameters
from metasum.config import Checked, option
from metasum.errors import UsageError, unknown
from metasum.learners.networks import MetaSum


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoHeadConfig(Checked):
    """Where the trunk ends that two heads share."""

    shared_until: str | None = option(
        None, "Last module of the shared trunk, for instance block_4 [default: all but the last, the classifier]."
    )


class TwoHeadLearner(SharingLearner):
    """L = CE(h_t(g(x_t)), y_t) + CE(h_s(g(x_s)), y_s): one trunk g, a head h for each dataset.

    Args:
        networks: the pair; the support's trunk becomes the target's.
        config: where the trunk ends.
        seed: not looked at.

    Raises:
        UsageError: the network has no such module, or nothing is left for the heads.
    """

    name = "two-head"
    summary = "One trunk, a head for each dataset."
    paper = 'Caruana 1997, "Multitask Learning"'
    Config = TwoHeadConfig

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        share_parameters(networks.target, networks.support, trunk_of(networks.target, config.shared_until))


def trunk_of(network: nn.Module, shared_until: str | None) -> set[str]:
    """Names of the parameters up to and including module `shared_until` [default: the last but one that has any].

    Raises:
        UsageError: `network` has no such module, or nothing would be left behind it.
    """
    names = [name for name, _ in network.named_parameters()]
    known = [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]
    if shared_until is None:
        children = [name for name in known if "." not in name]
        shared_until = children[-2] if len(children) > 1 else children[-1]
    if shared_until not in known:
        raise unknown("module for --shared-until", shared_until, known)
    last = max(index for index, name in enumerate(names) if name.startswith(f"{shared_until}."))
    if last == len(names) - 1:
        raise UsageError(f"--shared-until {shared_until} leaves nothing for two heads; multi-input shares everything.")
    return set(names[: last + 1])
