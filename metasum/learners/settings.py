"""Settings that several learners have: how networks are added, and which library runs their sum."""

from __future__ import annotations

import dataclasses
from typing import Literal

from metasum.config import Checked, option
from metasum.config.words import Backend, Operator, usual_backend


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorConfig(Checked):
    """What the third network is made of two trained ones by."""

    operator: Operator = option(
        "sum",
        "What the third network is: θ_t + θ_s; half of that; θ_0 and λ (--scaling) times what both have learnt; or a "
        "sum with learned coefficients for each network and layer.",
    )
    scaling: float = option(0.4, "λ of task arithmetic: factor on the task vectors' sum.", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainOperatorConfig(Checked):
    """The same for a learner whose networks share no initialisation, or are not trained themselves."""

    operator: Literal["sum", "average"] = option("sum", "What the third network is: θ_t + θ_s, or half of that.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendConfig(Checked):
    """Which library runs the third network while training."""

    backend: Backend = option(
        usual_backend(), "Library that runs the network with summed parameters; learn2learn where it is installed."
    )
