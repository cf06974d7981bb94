"""Every setting of `metasum few-shot`."""

from __future__ import annotations

import dataclasses

from metasum.config.choices import DEVICES, PRECISIONS
from metasum.config.training import MonitorConfig, OptimisationConfig
from metasum.errors import UsageError
from metasum.settings import Checked, option


@dataclasses.dataclass(frozen=True)
class FewShotConfig(Checked):
    """N-way K-shot learning on one dataset, for any of the few-shot learners.

    Raises:
        UsageError: a value is of the wrong type, outside its range or not among its choices.
    """

    dataset: str = option("glyphs", "Dataset of many classes: a registered one, omniglot or cifar-fs.")
    ways: int = option(5, "Classes in an episode.", unit="classes", minimum=2)
    shots: int = option(1, "Images of each class that an episode is learnt from.", unit="images", minimum=1)
    queries: int = option(15, "Images of each class that it is judged on.", unit="images", minimum=1)
    data_root: str = option(".data", "Folder with NAME.npz files and dataset folders.")
    in_channels: int = option(1, "Channels the network sees: 1 (colour becomes luma) or 3.", minimum=1)
    filters: int = option(32, "Channels of every convolution; the papers have 64.", minimum=1)
    seed: int = option(0, "Seed of initialisation and episodes.", minimum=0, below=2**62)
    episodes: int = option(600, "Test episodes that the accuracy is a mean of.", unit="episodes", minimum=2)
    validation_episodes: int = option(
        100, "Episodes of validation classes in an evaluation on the way.", unit="episodes", minimum=2
    )
    evaluate_on: str = option(
        "test",
        "Whose episodes the final accuracy is of. Choose hyperparameters on validation.",
        choices=("test", "validation"),
    )
    meta_batch: int = option(2, "Episodes in a step.", unit="episodes", minimum=1)
    hard_tasks: bool = option(
        True, "Draw half of a meta-batch from the classes that the last one failed worst on (meta-transfer)."
    )
    samples: int = option(5, "T: examples whose gradients write the key network's fast weights.", minimum=1)
    inner_steps: int = option(5, "Gradient steps of maml's clones.", unit="steps", minimum=1)
    inner_lr: float = option(0.4, "Their size.", above=0)
    first_order: bool = option(False, "Skip maml's second derivatives.")
    pretraining_steps: int = option(
        2000, "Updates of the trunk on all meta-training classes at once, batches of 64.", unit="steps", minimum=1
    )
    base_steps: int = option(
        50,
        "Gradient steps on an episode's images (meta-transfer, fine-tuning, classifier-tuning, from-scratch).",
        minimum=1,
    )
    base_lr: float = option(0.0005, "Their size.", above=0)
    test_ways: str | None = option(
        None, "Ask trained learners, where they can be asked, also for so many classes: numbers separated by commas."
    )
    base_filters: str | None = option(
        None,
        "Put an untrained base network of so many filters in the trained one's place (meta-networks): numbers "
        "separated by commas.",
    )
    then: str | None = option(None, "Go on meta-training on this dataset, and look back at the first one.")
    then_steps: int = option(500, "Updates on the second dataset.", unit="steps", minimum=1)
    steps: int = option(1000, "Updates in meta-training.", unit="steps", minimum=1)
    learning_rate: float | None = option(
        None, "Their step size at its highest [default: 0.01 for meta-transfer, else 0.001].", above=0
    )
    schedule: str = option("cosine", "Learning rate over the run.", choices=("constant", "linear", "cosine"))
    clip: float = option(10.0, "Largest gradient norm.", above=0)
    precision: str = option("32", "Arithmetic of forward and backward; weights stay float32.", choices=PRECISIONS)
    device: str = option("auto", "Where to run; auto takes a GPU where there is one.", choices=DEVICES)
    log_every: int = option(10, "Steps between lines in metrics.jsonl.", unit="steps", minimum=1)
    evaluate_every: int = option(250, "Steps between evaluations on the way; 0 for none.", unit="steps", minimum=0)
    checkpoint_every: int = option(250, "Steps between checkpoints; 0 for the last only.", unit="steps", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels not in (1, 3):
            raise UsageError(f"--in-channels takes 1 or 3, not {self.in_channels}.")
        if self.then == self.dataset:
            raise UsageError(f"--then {self.then}: that is the dataset itself; take another one.")
        numbers("--test-ways", self.test_ways, minimum=2)
        numbers("--base-filters", self.base_filters, minimum=1)

    @property
    def optimisation(self) -> OptimisationConfig:
        """How the weights move: by Adam."""
        names = ("steps", "learning_rate", "schedule", "clip", "precision", "device")
        return OptimisationConfig(**{name: getattr(self, name) for name in names})

    @property
    def monitor(self) -> MonitorConfig:
        """How often a run looks up from its work."""
        names = ("log_every", "evaluate_every", "checkpoint_every")
        return MonitorConfig(**{name: getattr(self, name) for name in names})


def numbers(flag: str, text: str | None, *, minimum: int) -> list[int]:
    """The numbers of a comma-separated list; raises UsageError where one is none, or too small."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if any(not word.isdecimal() or int(word) < minimum for word in words) or (text is not None and not words):
        raise UsageError(f"{flag} takes numbers of at least {minimum}, separated by commas, not {text!r}.")
    return [int(word) for word in words]
