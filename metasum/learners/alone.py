"""Networks trained each alone, with something that may make their sum with a stranger better.

Each is joint MetaSum without its third term, and with one of the terms or steps in `metasum.learners.regularised`.
"""

from __future__ import annotations

import dataclasses

from metasum.config import option
from metasum.config.words import usual_backend
from metasum.learners.joint import JointLearner, WeightsConfig
from metasum.learners.learner import Start
from metasum.learners.regularised import RegularisationConfig
from metasum.learners.settings import OperatorConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AloneConfig(RegularisationConfig, OperatorConfig, WeightsConfig):
    """What such a learner leaves open; the rest is as joint MetaSum without a third term has it."""

    reading = "cross-entropy"
    symmetric = False
    sum_weight = 0.0
    backend = usual_backend()
    pool = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuietConfig(AloneConfig):
    """With a weight of its own."""

    quiet_weight: float = option(
        0.5, "Weight of the loss that asks each network for no opinion on the other dataset's images.", minimum=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchoredConfig(AloneConfig):
    """With a strength of its own."""

    anchor: float = option(0.01, "λ: strength of the pull of both networks to their initialisation.", minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharpnessConfig(AloneConfig):
    """With a radius of its own."""

    sharpness: float = option(
        0.05, "ρ: how far from its weights each network looks for a steep place; 0 for ordinary steps.", minimum=0
    )


class QuietLearner(JointLearner):
    """L_t = CE(f(θ_t; x_t), y_t) and the terms of `keep_quiet` on x_s, and L_s its mirror image."""

    name = "quiet"
    summary = "Trains each network alone, quiet on foreign images."
    paper = "Hendrycks et al. 2019, Outlier Exposure, arXiv:1812.04606"
    Config = QuietConfig


class AnchoredLearner(JointLearner):
    """L_t = CE(f(θ_t; x_t), y_t) + λ ‖θ_t - θ_0‖², and L_s likewise."""

    name = "anchored"
    summary = "Trains each network alone, pulled to the initialisation."
    paper = "Li et al. 2018, L2-SP, arXiv:1802.01483"
    Config = AnchoredConfig
    start = Start.SHARED
    candidates = {"anchor": (0.001, 0.01, 0.1)}


class SharpnessAwareLearner(JointLearner):
    """CE of each network where it is highest nearby."""

    name = "sharpness-aware"
    summary = "Trains each network alone, in sharpness-aware steps."
    paper = "Foret et al. 2021, SAM, arXiv:2010.01412"
    Config = SharpnessConfig
    candidates = {"sharpness": (0.05, 0.2, 0.5)}


class TangentLearner(JointLearner):
    """CE of each network's linearisation at θ_0: sums of weights are sums of functions."""

    name = "tangent"
    summary = "Trains each network's tangent at the initialisation, alone: sums of weights are sums of functions."
    paper = "Ortiz-Jimenez et al. 2023, arXiv:2305.12827"
    Config = AloneConfig
    start = Start.SHARED
    preset = {"tangent": True, "norm": "none"}
    candidates = {"learning_rate": (5e-4, 2e-3)}
