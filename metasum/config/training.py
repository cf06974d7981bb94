"""How weights move, and how a run looks up from its work."""

from __future__ import annotations

import dataclasses

from metasum.config.choices import DEVICES, MEMORY_FORMATS, PRECISIONS
from metasum.errors import UsageError
from metasum.settings import Checked, option


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
    memory_format: str | None = option(
        None,
        "Layout of kernels and activations, for speed [default: channels-last; contiguous on mps, with --fsdp and in "
        "meta-training].",
        choices=MEMORY_FORMATS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer != "sgd" and self.momentum != OptimisationConfig.momentum:
            raise UsageError(f"--momentum says nothing to optimizer {self.optimizer!r}.")
        if self.steps is not None and self.warmup >= self.steps:
            raise UsageError(f"--warmup {self.warmup} leaves nothing of --steps {self.steps}.")


@dataclasses.dataclass(frozen=True)
class ProcessesConfig(Checked):
    """Who shares the work of a run; `torchrun` says it instead, where it starts the processes."""

    devices: int = option(
        1, "Processes on this machine, each with a GPU or its share of the cores; they divide each batch.", minimum=1
    )
    num_nodes: int = option(1, "Machines, with as many devices each.", minimum=1)
    fsdp: bool = option(False, "Cut networks, gradients and moments into pieces, one in each process.")
    sync_batch_norm: bool = option(False, "Batch statistics, in training, over the images of all processes.")


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
    wandb_group: str | None = option(None, "W&B group [default: none; of a study's runs, its folder].")
    wandb_tags: str | None = option(None, "W&B tags, separated by commas.")
    wandb_name: str | None = option(
        None, "Name of the W&B run, of a study's own one where there are many [default: TARGET+SUPPORT/FOLDER]."
    )
    wandb_network: bool = option(False, "Send the summed network to W&B as an artifact.")
    tensorboard: bool = option(False, "Write TensorBoard event files into every run's folder.")
