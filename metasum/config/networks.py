"""What a run is made of: data, architecture, and how the third network comes about."""

from __future__ import annotations

import dataclasses

from metasum.config.choices import AUGMENTATIONS, BACKENDS, NETWORKS, NORMS, OPERATORS, STATISTICS
from metasum.errors import UsageError
from metasum.settings import Checked, option


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
