"""Few-shot learners by name: a dictionary to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from metasum.baselines.few_shot_references import Maml, Prototypical
from metasum.baselines.meta_networks.learner import MetaNetworks
from metasum.baselines.meta_transfer.base_training import BaseTraining
from metasum.baselines.meta_transfer.learner import ClassifierTuning, FineTuning, MetaTransfer
from metasum.config import FewShotConfig
from metasum.errors import unknown
from metasum.learners.few_shot import FewShotLearner
from metasum.networks.convnet import convnet

Factory = Callable[[FewShotConfig, nn.Sequential], FewShotLearner]
"""From the settings and a pretrained `convnet` (an empty network where the entry asks for none)."""


@dataclass(frozen=True)
class FewShotEntry:
    """A way of learning from few examples."""

    factory: Factory
    summary: str
    pretrained: bool = False
    """Whether it starts from a network that was trained on all meta-training classes at once."""
    meta_trains: bool = True
    """Whether there is anything to learn from episodes."""
    settings: tuple[str, ...] = ()
    """Names of the settings that not every learner reads."""
    learning_rate: float = 1e-3
    """Of meta-training, where none is asked for; chosen on validation episodes of glyphs."""


def _meta_networks(config: FewShotConfig, _: nn.Sequential) -> FewShotLearner:
    return MetaNetworks(
        ways=config.ways,
        shots=config.shots,
        in_channels=config.in_channels,
        filters=config.filters,
        samples=config.samples,
    )


def _maml(config: FewShotConfig, _: nn.Sequential) -> FewShotLearner:
    return Maml(
        ways=config.ways,
        in_channels=config.in_channels,
        filters=config.filters,
        inner_steps=config.inner_steps,
        inner_lr=config.inner_lr,
        first_order=config.first_order,
    )


def _meta_transfer(config: FewShotConfig, trunk: nn.Sequential) -> FewShotLearner:
    base = BaseTraining(steps=config.base_steps, learning_rate=config.base_lr)
    return MetaTransfer(trunk, ways=config.ways, base=base)


def _classifier_tuning(config: FewShotConfig, trunk: nn.Sequential) -> FewShotLearner:
    base = BaseTraining(steps=config.base_steps, learning_rate=config.base_lr)
    return ClassifierTuning(trunk, ways=config.ways, base=base)


FEW_SHOT: dict[str, FewShotEntry] = {
    "meta-networks": FewShotEntry(
        _meta_networks, "Slow weights, and fast ones written from examples' gradients.", settings=("samples",)
    ),
    "meta-transfer": FewShotEntry(
        _meta_transfer,
        "A pretrained, frozen trunk with meta-learnt scale and shift.",
        pretrained=True,
        settings=("base_steps", "base_lr", "hard_tasks"),
        learning_rate=0.01,
    ),
    "maml": FewShotEntry(
        _maml,
        "An initialisation from which a few steps lead far (learn2learn).",
        settings=("inner_steps", "inner_lr", "first_order"),
    ),
    "prototypical": FewShotEntry(
        lambda config, _: Prototypical(in_channels=config.in_channels, filters=config.filters),
        "The nearest class mean in a learnt space (learn2learn).",
    ),
    "fine-tuning": FewShotEntry(
        lambda config, trunk: FineTuning(
            trunk, ways=config.ways, steps=config.base_steps, learning_rate=config.base_lr
        ),
        "A pretrained network, all of it trained on each episode's images.",
        pretrained=True,
        settings=("base_steps", "base_lr"),
        meta_trains=False,
    ),
    "from-scratch": FewShotEntry(
        lambda config, _: FineTuning(
            convnet(ways=config.ways, in_channels=config.in_channels, filters=config.filters),
            ways=config.ways,
            steps=config.base_steps,
            learning_rate=config.base_lr,
        ),
        "The base network as it was drawn, trained on each episode's images.",
        settings=("base_steps", "base_lr"),
        meta_trains=False,
    ),
    "classifier-tuning": FewShotEntry(
        _classifier_tuning,
        "A pretrained, frozen trunk with a new classifier for each episode.",
        pretrained=True,
        settings=("base_steps", "base_lr"),
        meta_trains=False,
    ),
}


def few_shot_named(name: str) -> FewShotEntry:
    """The entry of `name`; raises UsageError, with the nearest name, where there is none."""
    if name not in FEW_SHOT:
        raise unknown("few-shot learner", name, FEW_SHOT)
    return FEW_SHOT[name]
