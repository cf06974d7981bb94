"""A way of training with two settings and a method of merging with one, for `--plugin docs/example_plugin.py`."""

import dataclasses

import torch

from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.config import Checked, option
from metasum.learners.settings import OperatorConfig
from metasum.merging.tensors import TensorMethod


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyConfig(OperatorConfig):
    noise: float = option(0.1, "Standard deviation of the noise on training images.", minimum=0)
    noise_share: float = option(0.5, "Share of a batch's images that have it.", minimum=0, maximum=1)


class NoisyLearner(IndependentLearner):
    name = "noisy"
    summary = "Trains each network alone, on images with noise."
    Config = NoisyConfig
    candidates = {"noise": (0.03, 0.3)}

    def training_step(self, target, support, *, backward=torch.Tensor.backward):
        def noisy(batch):
            chosen = torch.rand_like(batch.images[:, :1, :1, :1]) < self.config.noise_share
            return batch._replace(images=batch.images + self.config.noise * chosen * torch.randn_like(batch.images))

        return super().training_step(noisy(target), noisy(support), backward=backward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DampedConfig(Checked):
    damping: float = option(0.9, "Factor on the sum.", above=0, maximum=1)


class Damped(TensorMethod):
    name = "damped"
    summary = "The sum, made smaller."
    Config = DampedConfig

    def formula(self, tensors):
        return lambda chunk: sum(chunk.values) * self.config.damping


register(NoisyLearner)
register(Damped)
