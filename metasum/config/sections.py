"""The settings of every run, whatever its learner, in the sections that read them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from metasum.config.field import UNSET, Checked, option
from metasum.config.words import Augmentation, Device, Heads, HeldOut, Layout, Precision, Schedule, Statistics
from metasum.errors import UsageError

RECIPE = "the pair's recipe"

OF_A_PAIR = {"learner", "seed", "target", "support", "evaluate_on", "augment_target", "augment_support", "batch_size"}
OF_A_PAIR |= {"tangent", "augmented", "support_init_seed", "operator", "statistics", "calibration_batches", "steps"}
OF_A_PAIR |= {"learning_rate", "heads", "devices", "num_nodes", "fsdp", "sync_batch_norm"}
"""Settings of a pair's run that say nothing to the learning of its start (`metasum meta-train`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """What the two networks are trained on."""

    target: str = option("digits", "Dataset of the target network, whose accuracy counts.")
    support: str = option("letters", "Dataset of the support network, which teaches the target the sum.")
    data_root: str = option(".data", "Folder with NAME.npz files and torchvision's own dataset folders.")
    evaluate_on: HeldOut = option(
        "test",
        "Held-out images that accuracies are measured on; validation is a fixed tenth of the training images, "
        "taken out of training. Choose hyperparameters there.",
    )
    in_channels: int = option(
        1, "Channels the network sees: 1 (colour becomes luma), or as many as the images have.", minimum=1, maximum=16
    )
    augment_target: Augmentation = option("none", "Random changes to the target's training images.")
    augment_support: Augmentation = option("none", "Random changes to the support's training images.")
    batch_size: int = option(UNSET, "Images of each dataset in a step.", unit="images", filled=RECIPE, minimum=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig(Checked):
    """The architecture that target, support and sum share, and where it starts."""

    network: str = option(
        "vgg16",
        "Architecture of all three networks: vgg16, resnet, one that a plug-in registers, or FILE.py:FUNCTION (or "
        "package.module:FUNCTION), which returns a torch.nn.Module and may have parameters num_classes, in_channels, "
        "image_size, width, norm and dropout.",
    )
    image_size: int = option(
        32,
        "Height and width of the images that the network sees; smaller ones are padded with black.",
        unit="pixels",
        minimum=1,
        maximum=224,
    )
    width: float = option(
        UNSET,
        "Factor on every channel count and hidden size.",
        filled=f"{RECIPE}; with --init, as in that file",
        above=0,
    )
    norm: Literal["batch", "group", "none"] = option("batch", "Normalisation after each convolution.")
    dropout: float = option(0.25, "Share of hidden units dropped in training (vgg16).", minimum=0, below=1)
    tangent: bool = option(False, "Train the network's tangent at its initialisation, linear in the weights.")
    augmented: bool = option(
        False, "Give the last block and the classifier a second, fast set of weights beside the slow one (vgg16)."
    )
    num_classes: int = option(
        UNSET, "Outputs of both networks.", filled="the larger class count of the two datasets", minimum=2
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
        if self.augmented and (self.tangent or self.network != "vgg16"):
            raise UsageError("--augmented is for network vgg16, and not for its --tangent.")

    def check_given(self, given: frozenset[str]) -> None:
        if self.init is not None and "init_seed" in given:
            raise UsageError("--init and --init-seed ask for different initialisations; give one.")
        if self.network != "vgg16" and ":" not in self.network and "dropout" in given:
            raise UsageError(f"--dropout says nothing to network {self.network!r}, which has none.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Checked):
    """How the networks alone and their sum are measured."""

    statistics: Statistics | None = option(
        None,
        "Batch-norm statistics when measured: recalibrate, of the networks alone and of the sum, on training images of "
        "the dataset at hand; or each network's running ones, and of the sum every network's own (where they have no "
        "channel in common), the target's or support's, or those learned in training [default: own where the networks "
        "have no channel in common, as slots, else recalibrate].",
    )
    calibration_batches: int = option(
        16, "Training batches that recalibration reads.", unit="batches of 256", minimum=1
    )
    heads: Heads = option(
        "summed",
        "Last layer of a sum when it is measured: summed, as all weights are; or own: only what is below it is summed, "
        "and each dataset is measured with its own network's last layer (which dataset an image is of is known then). "
        "Training is the same.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimisationConfig(Checked):
    """How the weights move."""

    steps: int = option(UNSET, "Updates.", unit="steps", filled=RECIPE, minimum=1)
    learning_rate: float = option(UNSET, "Step size at its highest.", filled=RECIPE, above=0)
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "Update rule.")
    momentum: float = option(0.9, "Momentum of sgd.", minimum=0, below=1)
    weight_decay: float = option(0.0, "L2 penalty (adam, sgd) or decoupled decay (adamw).", minimum=0)
    schedule: Schedule = option("cosine", "Learning rate over the run.")
    warmup: int = option(0, "Steps in which the learning rate rises from 0.", unit="steps", minimum=0)
    clip: float | None = option(None, "Largest gradient norm of each network [default: no clipping].", above=0)
    precision: Precision = option("32", "Arithmetic of forward and backward; weights stay float32.")
    device: Device = option("auto", "Where to run; auto takes a GPU where there is one.")
    memory_format: Layout = option(
        "auto",
        "Layout of kernels and activations; auto: on the CPU the quicker one in a short trial, remembered for machine "
        "and shape, of those whose gradients proved right; channels-last on cuda; contiguous on mps, with --fsdp and "
        "in meta-training.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup >= self.steps:
            raise UsageError(f"--warmup {self.warmup} leaves nothing of --steps {self.steps}.")

    def check_given(self, given: frozenset[str]) -> None:
        if self.optimizer != "sgd" and "momentum" in given:
            raise UsageError(f"--momentum says nothing to optimizer {self.optimizer!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessesConfig(Checked):
    """Who shares the work of a run; `torchrun` says it instead, where it starts the processes."""

    devices: int = option(
        1, "Processes on this machine, each with a GPU or its share of the cores; they divide each batch.", minimum=1
    )
    num_nodes: int = option(1, "Machines, with as many devices each.", minimum=1)
    fsdp: bool = option(False, "Cut networks, gradients and moments into pieces, one in each process.")
    sync_batch_norm: bool = option(False, "Batch statistics, in training, over the images of all processes.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorConfig(Checked):
    """How often a run logs, evaluates and saves."""

    log_every: int = option(10, "Steps between lines in metrics.jsonl.", unit="steps", minimum=1)
    evaluate_every: int = option(100, "Steps between evaluations on the way; 0 for none.", unit="steps", minimum=0)
    evaluate_images: int = option(
        2000, "Images of each dataset in an evaluation on the way (the last one takes all).", unit="images", minimum=1
    )
    checkpoint_every: int = option(100, "Steps between checkpoints; 0 for the last only.", unit="steps", minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig(Checked):
    """Where else a run is written down."""

    wandb: Literal["online", "offline", "disabled"] | None = option(
        None, "Track the run in Weights & Biases [default: disabled; under a sweep's agent, online]."
    )
    wandb_project: str = option("metasum", "W&B project.")
    wandb_entity: str | None = option(None, "W&B user or team [default: yours].")
    wandb_group: str | None = option(None, "W&B group [default: none; of a study's runs, its folder].")
    wandb_tags: tuple[str, ...] = option((), "W&B tags, separated by commas.")
    wandb_name: str | None = option(
        None, "Name of the W&B run, of a study's own one where there are many [default: TARGET+SUPPORT/FOLDER]."
    )
    wandb_network: bool = option(False, "Send the summed network to W&B as an artifact.")
    tensorboard: bool = option(False, "Write TensorBoard event files into every run's folder.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for tag in self.wandb_tags:
            if not 1 <= len(tag) <= 64:
                raise UsageError(f"--wandb-tags: W&B takes tags of 1 to 64 characters, not {tag!r}.")
