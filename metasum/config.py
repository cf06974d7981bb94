"""Every setting of a run, in the sections that read them. No torch here: `--help` should not wait for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from metasum.errors import CheckpointError, UsageError, unknown
from metasum.options import Checked, option, options_of

NETWORKS = ("vgg16", "resnet")
NORMS = ("batch", "group", "none")
OPERATORS = ("sum", "average", "task-arithmetic", "learned")
BACKENDS = ("learn2learn", "torch", "higher")
STATISTICS = ("recalibrate", "target", "support", "learned")
READINGS = ("cross-entropy", "gap", "consistency")
AUGMENTATIONS = ("none", "shift", "shift-flip")
PRECISIONS = ("32", "bf16-mixed", "16-mixed")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclasses.dataclass(frozen=True)
class DataConfig(Checked):
    """What the two networks are trained on."""

    target: str = option("digits", "Dataset of the target network, whose accuracy counts.")
    support: str = option("letters", "Dataset of the support network, which teaches the target the sum.")
    data_root: str = option(".data", "Folder with NAME.npz files and torchvision's own dataset folders.")
    evaluate_on: str = option(
        "test",
        "Held-out images that accuracies are measured on; validation is a fixed tenth of the training images, "
        "taken out of training. Choose hyperparameters there.",
        choices=("test", "validation"),
    )
    in_channels: int = option(1, "Channels the network sees: 1 (colour becomes luma) or 3.", minimum=1)
    augment_target: str = option("none", "Random changes to the target's training images.", choices=AUGMENTATIONS)
    augment_support: str = option("none", "Random changes to the support's training images.", choices=AUGMENTATIONS)
    batch_size: int | None = option(
        None, "Images of each dataset in a step [default: the pair's recipe].", unit="images", minimum=2
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels not in (1, 3):
            raise UsageError(f"--in-channels takes 1 or 3, not {self.in_channels}.")


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Checked):
    """The architecture that target, support and sum share, and where it starts."""

    network: str = option("vgg16", "Architecture of all three networks.", choices=NETWORKS)
    width: float | None = option(
        None, "Factor on every channel count and hidden size [default: the pair's recipe].", above=0
    )
    norm: str = option("batch", "Normalisation after each convolution.", choices=NORMS)
    dropout: float = option(0.25, "Share of hidden units dropped in training (vgg16).", minimum=0, below=1)
    tangent: bool = option(False, "Train the network's tangent at its initialisation, linear in the weights.")
    augmented: bool = option(
        False, "Give the last block and the classifier a second, fast set of weights beside the slow one (vgg16)."
    )
    num_classes: int | None = option(
        None, "Outputs of both networks [default: the larger class count of the two datasets].", minimum=2
    )
    init: str | None = option(None, "Start from the parameters in this .safetensors file, not from --init-seed.")
    init_seed: int = option(
        0, "Seed of the shared initialisation; runs with the same one can be summed.", minimum=0, below=2**63
    )
    support_init_seed: int | None = option(
        None,
        "Seed of an initialisation of the support's own [default: it shares the target's].",
        minimum=0,
        below=2**63,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init is not None and self.init_seed != 0:
            raise UsageError("--init and --init-seed ask for different initialisations; give one.")
        if self.augmented and (self.tangent or self.network != "vgg16"):
            raise UsageError("--augmented is for network vgg16, and not for its --tangent.")
        if self.network != "vgg16" and self.dropout != NetworkConfig.dropout:
            raise UsageError(f"--dropout says nothing to network {self.network!r}, which has none.")


@dataclasses.dataclass(frozen=True)
class SumConfig(Checked):
    """How the third network comes about."""

    operator: str = option(
        "sum",
        "What the third network is: θ_t + θ_s; half of that; θ_0 and λ (--scaling) times what both have learnt; or a "
        "sum with learned coefficients for each network and layer.",
        choices=OPERATORS,
    )
    statistics: str = option(
        "recalibrate",
        "Batch-norm statistics of the sum when measured: recomputed on training images of the dataset it is "
        "measured on, the target's or support's own, or those learned in training.",
        choices=STATISTICS,
    )
    calibration_batches: int = option(
        16, "Training batches that recalibration reads.", unit="batches of 256", minimum=1
    )
    backend: str = option("learn2learn", "Library that runs the network with summed parameters.", choices=BACKENDS)


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
class MergingConfig(Checked):
    """What the merging methods leave open."""

    scaling: float = option(0.4, "λ: factor on the task vectors' sum, or on TIES's merged vector.", above=0)
    density: float = option(0.2, "Share of each task vector that TIES keeps, the largest.", above=0, maximum=1)
    drop_rate: float = option(0.5, "Share of each task vector that DARE drops.", minimum=0, below=1)
    dare_then: str = option(
        "task-arithmetic", "What DARE does with the thinned task vectors.", choices=("task-arithmetic", "ties")
    )
    position: float = option(
        0.5, "How far SLERP goes from the first network (0) to the second (1).", minimum=0, maximum=1
    )
    merging_images: int = option(
        1024, "Images of each dataset that Fisher and RegMean look at, at most.", unit="images", minimum=1
    )
    shrinkage: float = option(0.9, "Factor on the off-diagonal of RegMean's input products.", minimum=0, maximum=1)


@dataclasses.dataclass(frozen=True)
class OptimisationConfig(Checked):
    """How the weights move."""

    steps: int | None = option(None, "Updates [default: the pair's recipe].", unit="steps", minimum=1)
    learning_rate: float | None = option(None, "Step size at its highest [default: the pair's recipe].", above=0)
    optimizer: str = option("adam", "Update rule.", choices=("adam", "adamw", "sgd"))
    momentum: float = option(0.9, "Momentum of sgd.", minimum=0, below=1)
    weight_decay: float = option(0.0, "L2 penalty (adam, sgd) or decoupled decay (adamw).", minimum=0)
    schedule: str = option("cosine", "Learning rate over the run.", choices=("constant", "linear", "cosine"))
    warmup: int = option(0, "Steps in which the learning rate rises from 0.", unit="steps", minimum=0)
    clip: float | None = option(None, "Largest gradient norm of each network [default: no clipping].", above=0)
    precision: str = option("32", "Arithmetic of forward and backward; weights stay float32.", choices=PRECISIONS)
    device: str = option("auto", "Where to run; auto takes a GPU where there is one.", choices=DEVICES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer != "sgd" and self.momentum != OptimisationConfig.momentum:
            raise UsageError(f"--momentum says nothing to optimizer {self.optimizer!r}.")
        if self.steps is not None and self.warmup >= self.steps:
            raise UsageError(f"--warmup {self.warmup} leaves nothing of --steps {self.steps}.")


@dataclasses.dataclass(frozen=True)
class MonitorConfig(Checked):
    """How often a run looks up from its work."""

    log_every: int = option(10, "Steps between lines in metrics.jsonl.", unit="steps", minimum=1)
    evaluate_every: int = option(100, "Steps between evaluations on the way; 0 for none.", unit="steps", minimum=0)
    evaluate_images: int = option(
        2000, "Images of each dataset in an evaluation on the way (the last one takes all).", unit="images", minimum=1
    )
    checkpoint_every: int = option(100, "Steps between checkpoints; 0 for the last only.", unit="steps", minimum=0)


@dataclasses.dataclass(frozen=True)
class TrackingConfig(Checked):
    """Where else a run is written down."""

    wandb: str | None = option(
        None,
        "Track the run in Weights & Biases [default: disabled; under a sweep's agent, online].",
        choices=("online", "offline", "disabled"),
    )
    wandb_project: str = option("metasum", "W&B project.")
    wandb_entity: str | None = option(None, "W&B user or team [default: yours].")
    wandb_group: str | None = option(None, "W&B group.")
    wandb_tags: str | None = option(None, "W&B tags, separated by commas.")
    wandb_name: str | None = option(None, "Name of the W&B run [default: TARGET+SUPPORT/FOLDER].")
    wandb_network: bool = option(False, "Send the summed network to W&B as an artifact.")
    tensorboard: bool = option(False, "Write TensorBoard event files into the run folder.")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Checked):
    """One run. `TrainConfig()` is the embedded pair; `settings` makes others by flat names.

    Raises:
        UsageError: a value is of the wrong type, outside its range or not among its choices.
    """

    learner: str = option("metasum", "Way of training; `metasum learners` lists them.")
    seed: int = option(
        0, "Seed of batches, augmentation and dropout (not of the initialisation).", minimum=0, below=2**63
    )
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    sum: SumConfig = dataclasses.field(default_factory=SumConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    regularisation: RegularisationConfig = dataclasses.field(default_factory=RegularisationConfig)
    proximity: ProximityConfig = dataclasses.field(default_factory=ProximityConfig)
    two_head: TwoHeadConfig = dataclasses.field(default_factory=TwoHeadConfig)
    slots: SlotsConfig = dataclasses.field(default_factory=SlotsConfig)
    meta: MetaConfig = dataclasses.field(default_factory=MetaConfig)
    meta_transfer: MetaTransferConfig = dataclasses.field(default_factory=MetaTransferConfig)
    merging: MergingConfig = dataclasses.field(default_factory=MergingConfig)
    optimisation: OptimisationConfig = dataclasses.field(default_factory=OptimisationConfig)
    monitor: MonitorConfig = dataclasses.field(default_factory=MonitorConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(Checked):
    """What `metasum benchmark` times."""

    learner: str = option(
        "metasum", "Whose step: joint MetaSum's, or meta-training's.", choices=("metasum", "metasum-meta")
    )
    inner_steps: int = option(5, "Steps that each clone takes apart (metasum-meta).", unit="steps", minimum=1)
    backends: str = option("learn2learn,torch,higher", "Backends to time, separated by commas.")
    width: float = option(1.0, "Factor on every channel count and hidden size.", above=0)
    batch_size: int = option(64, "Images of each dataset in a step.", unit="images", minimum=2)
    repeats: int = option(5, "Timed rounds; each times the plain passes and every backend's step.", minimum=1)
    precision: str = option("32", "Arithmetic of forward and backward.", choices=PRECISIONS)
    device: str = option("auto", "Where to run; auto takes a GPU where there is one.", choices=DEVICES)


SECTIONS: dict[str, Any] = {
    name: hint for name, hint in get_type_hints(TrainConfig).items() if dataclasses.is_dataclass(hint)
}


def settings(**values: Any) -> TrainConfig:
    """The settings of a run by their flat names, those of the command line's flags; the rest keep their defaults.

    Example:
        >>> config = settings(target="mnist", support="cifar10", width=0.25, symmetric=True)

    Raises:
        UsageError: a name that no setting has, or a value that its setting does not take.
    """
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    own: dict[str, Any] = {}
    places = {leaf.name: leaf.path[:-1] for leaf in options_of(TrainConfig)}
    for name, value in values.items():
        if name not in places:
            raise unknown("setting", name, places)
        place = sections[places[name][0]] if places[name] else own
        place[name] = value
    return TrainConfig(**own, **{name: SECTIONS[name](**given) for name, given in sections.items()})


def flat(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its flat name: what `settings` takes."""
    return {leaf.name: _read(config, leaf.path) for leaf in options_of(TrainConfig)}


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    """The same settings with some changed, by their flat names; raises UsageError as `settings` does."""
    return settings(**{**flat(config), **values})


def _read(config: Any, path: tuple[str, ...]) -> Any:
    return _read(getattr(config, path[0]), path[1:]) if path else config


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The settings as plain nested dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`; a section that was not there yet when they were written is at its defaults.

    Raises:
        CheckpointError: a setting is unknown, or these are no settings at all.
    """
    try:
        sections = {name: section(**values.get(name, {})) for name, section in SECTIONS.items()}
        return TrainConfig(learner=values["learner"], seed=values["seed"], **sections)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"these are not the settings of a metasum run: {error}.") from error
