"""The settings of `metasum few-shot`, in the sections that read them; learners' own are in their files."""

from __future__ import annotations

import dataclasses

from metasum.config import UNSET, Checked, option
from metasum.config.words import Device, HeldOut, Precision, Schedule
from metasum.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodesConfig(Checked):
    """Which episodes, on what, seen by networks of what size: what all runs read."""

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
    evaluate_on: HeldOut = option(
        "test", "Whose episodes the final accuracy is of. Choose hyperparameters on validation."
    )
    precision: Precision = option("32", "Arithmetic of forward and backward; weights stay float32.")
    device: Device = option("auto", "Where to run; auto takes a GPU where there is one.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels not in (1, 3):
            raise UsageError(f"--in-channels takes 1 or 3, not {self.in_channels}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdatesConfig(Checked):
    """What every training reads, on episodes or before them: how Adam moves the weights, and how often it logs."""

    schedule: Schedule = option(
        "cosine",
        "Learning rate over the run; with --patience it is constant, since nobody knows where training will stop.",
    )
    clip: float = option(10.0, "Largest gradient norm.", above=0)
    log_every: int = option(10, "Steps between lines in metrics.jsonl.", unit="steps", minimum=1)
    evaluate_every: int = option(250, "Steps between evaluations on the way; 0 for none.", unit="steps", minimum=0)
    patience: int | None = option(
        None,
        "Stop a training, pretraining too, where so many evaluations on the way in a row brought no better accuracy on "
        "validation classes; the network of the best one is taken, and the number of steps is the most there can be "
        "[default: all steps, and the last network].",
        unit="evaluations",
        minimum=1,
    )
    checkpoint_every: int = option(250, "Steps between checkpoints; 0 for the last only.", unit="steps", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is None:
            return
        if not self.evaluate_every:
            raise UsageError("--patience has nothing to go by with --evaluate-every 0; give a number of steps there.")
        if self.schedule != "constant":
            raise UsageError(
                f"--patience does not go with --schedule {self.schedule}, which falls to 0 at the last step, wherever "
                "training stops; give --schedule constant, or leave it out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaTrainingConfig(Checked):
    """What learners read that learn from episodes."""

    meta_batch: int = option(2, "Episodes in a step.", unit="episodes", minimum=1)
    steps: int = option(1000, "Updates in meta-training.", unit="steps", minimum=1)
    learning_rate: float = option(UNSET, "Their step size at its highest.", filled="the learner's own", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig(Checked):
    """What learners read that start from a network that knows all meta-training classes."""

    pretraining_steps: int = option(
        2000, "Updates of the trunk on all meta-training classes at once, batches of 64.", unit="steps", minimum=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionsConfig(Checked):
    """What trained learners are asked beside."""

    test_ways: tuple[int, ...] = option(
        (),
        "Ask trained learners, where they can be asked, also for so many classes: numbers separated by commas.",
        minimum=2,
    )
    base_filters: tuple[int, ...] = option(
        (),
        "Put an untrained base network of so many filters in the trained one's place, where a learner can do without "
        "it: numbers separated by commas.",
        minimum=1,
    )
    then: str | None = option(None, "Go on meta-training on this dataset, and look back at the first one.")
    then_steps: int = option(500, "Updates on the second dataset.", unit="steps", minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig(Checked):
    """Which settings are chosen before the runs, on validation classes."""

    tune: bool = option(
        False,
        "Choose each learner's step sizes first, on --validation-episodes of validation classes. Every built-in "
        "learner has six candidates, each tried with the first seed: a search may take six times as long as a run. "
        "A setting that is given is never chosen.",
    )
    tune_steps: int = option(
        300, "Steps of meta-training of each candidate, but no more than --steps.", unit="steps", minimum=1
    )


SECTIONS: tuple[type[Checked], ...] = (
    EpisodesConfig,
    UpdatesConfig,
    MetaTrainingConfig,
    PretrainingConfig,
    QuestionsConfig,
    SearchConfig,
)
