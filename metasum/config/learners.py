"""What single ways of training leave open."""

from __future__ import annotations

import dataclasses

from metasum.config.choices import OPERATORS, READINGS
from metasum.errors import UsageError
from metasum.merging.dare import DAREConfig
from metasum.merging.method import ImagesConfig
from metasum.merging.plain import WeightedConfig
from metasum.merging.slerp import SLERPConfig
from metasum.options import Checked, option


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Checked):
    """The three terms of joint MetaSum."""

    reading: str = option(
        "cross-entropy",
        "What the third term asks of the sum on the target's images: cross-entropy to be right; gap to have "
        "the target network's loss; consistency to predict what the target network predicts.",
        choices=READINGS,
    )
    symmetric: bool = option(False, "Ask the same of the sum on the support's images.")
    target_weight: float = option(1.0, "Weight of the target network's own loss.", minimum=0)
    support_weight: float = option(1.0, "Weight of the support network's own loss.", minimum=0)
    sum_weight: float = option(1.0, "Weight of the summed network's loss.", minimum=0)
    pool: str | None = option(
        None,
        "Weights files of finished networks, separated by commas; the third term adds one of them, drawn at each "
        "step, in the partner's place.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool is not None and self.sum_weight == 0:
            raise UsageError("--pool says nothing with --sum-weight 0.")


@dataclasses.dataclass(frozen=True)
class RegularisationConfig(Checked):
    """What may carry over from one partner to another."""

    anchor: float | None = option(
        None,
        "λ: strength of the pull of both networks to their initialisation [default: 0.01 for learner anchored, else "
        "0].",
        minimum=0,
    )
    sharpness: float | None = option(
        None,
        "ρ: how far from its weights each network looks for a steep place; 0 for ordinary steps [default: 0.05 for "
        "learner sharpness-aware, else 0].",
        minimum=0,
    )
    quiet_weight: float | None = option(
        None,
        "Weight of the loss that asks each network for no opinion on the other dataset's images [default: 0.5 for "
        "learners slots and quiet, else 0].",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True)
class ProximityConfig(Checked):
    """How proximity pulls the two networks towards each other."""

    proximity: float = option(
        1.0, "λ: strength of the pull between the two networks' weights; 0 is independent training.", minimum=0
    )
    proximity_decay: float = option(
        0.9, "c_l = decay^depth: how much weaker each layer is pulled than the one before it.", above=0, maximum=1
    )
    proximity_weights: str | None = option(
        None, "c_l layer by layer from the input, separated by commas, in place of the decay."
    )


@dataclasses.dataclass(frozen=True)
class TwoHeadConfig(Checked):
    """Where the trunk ends that two heads share."""

    shared_until: str | None = option(
        None, "Last module of the shared trunk, for instance block_4 [default: all but the last, the classifier]."
    )


@dataclasses.dataclass(frozen=True)
class SlotsConfig(Checked):
    """Which channels a network has to itself."""

    slots: int = option(
        2, "Parts that the channels are divided into; networks in different slots have no weight in common.", minimum=2
    )
    slot: int = option(
        0,
        "The target network's slot, from 0; the support takes the next. `metasum experiment` numbers its targets.",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True)
class MetaTransferConfig(Checked):
    """How Meta-Transfer Learning spends its steps."""

    pretraining_steps: int | None = option(
        None,
        "Steps in which the trunk learns both datasets, before it is frozen [default: half of --steps; 0 with --init].",
        unit="steps",
        minimum=0,
    )
    base_steps: int = option(10, "Gradient steps from the learnt classifier to a batch's own.", unit="steps", minimum=1)
    base_lr: float = option(0.05, "Their size.", above=0)


@dataclasses.dataclass(frozen=True)
class MetaConfig(Checked):
    """How an initialisation is learnt from which networks can be trained apart and added."""

    meta_datasets: str | None = option(
        None, "Datasets that meta-training draws tasks from, separated by commas [default: the support]."
    )
    meta_operator: str = option(
        "average",
        "What meta-training makes of the clones. The average starts with logits of ordinary size, the sum with many "
        "times that; where layers are normalised, networks that can be averaged can be added.",
        choices=OPERATORS,
    )
    meta_steps: int = option(500, "Updates of the initialisation.", unit="steps", minimum=1)
    meta_learning_rate: float = option(1e-3, "Their step size at its highest.", above=0)
    meta_seed: int = option(0, "Seed of the tasks drawn (not of the first weights).", minimum=0, below=2**63)
    meta_batch_size: int = option(32, "Images in each inner step, and in each evaluation.", unit="images", minimum=2)
    inner_steps: int = option(5, "Steps that each clone takes apart.", unit="steps", minimum=1)
    inner_lr: float = option(0.1, "Step size of the clones.", above=0)
    inner_optimizer: str = option(
        "sgd", "How clones adapt; meta-sgd learns a rate for every weight.", choices=("sgd", "meta-sgd", "adam")
    )
    first_order: bool = option(False, "Skip second derivatives in the gradient through the clones' steps.")
    partners: int = option(2, "Most networks that are added at once; each time 2 to so many.", minimum=2)
    permute_labels: bool = option(True, "Draw anew which output stands for which class.")
    rotate: bool = option(True, "Turn a task's images by a multiple of 90 degrees.")
    invert: bool = option(True, "Let dark and bright change places in half of the tasks.")
    task_classes: int | None = option(
        None, "Classes in a task [default: all that there are outputs for].", unit="classes", minimum=2
    )


@dataclasses.dataclass(frozen=True)
class MergingConfig(SLERPConfig, DAREConfig, ImagesConfig):
    """What the merging methods leave open."""

    shrinkage: float = option(0.9, "Factor on the off-diagonal of RegMean's input products.", minimum=0, maximum=1)


@dataclasses.dataclass(frozen=True)
class OperatorConfig(MergingConfig, WeightedConfig):
    """What the operators of `metasum sum` leave open."""
