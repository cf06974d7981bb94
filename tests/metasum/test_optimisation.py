"""Precision, clipping and schedule of the update."""

from typing import get_args

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from tiny import images, labels, small_network

from metasum import MetaSum
from metasum.config import options_of, words
from metasum.config.sections import OptimisationConfig
from metasum.errors import UsageError
from metasum.learners.joint import JointConfig, JointLearner
from metasum.training.optimisation import Updater, learning_rate_factor
from metasum.types import Batch
from metasum.weights import composition, functional

TARGET = Batch(images(seed=1).float(), labels(seed=1))
SUPPORT = Batch(images(seed=2).float(), labels(seed=2))


def trained(fabric, reading, clip, steps=4, resume_at=None):
    learner = JointLearner(MetaSum(small_network().float()), JointConfig(reading=reading))
    precision = "32" if fabric.strategy.precision.precision == "32-true" else "16-mixed"
    config = OptimisationConfig(steps=8, learning_rate=1e-2, optimizer="sgd", clip=clip, precision=precision)
    updater = Updater(learner, config, fabric)
    for step in range(steps):
        if step == resume_at:
            state = updater.state_dict()
            updater = Updater(learner, config, fabric)
            updater.load_state_dict(state)
        with fabric.autocast():
            learner.training_step(TARGET, SUPPORT, backward=updater.backward)
        updater.update()
    return torch.cat([p.detach().flatten() for p in learner.parameters()]), updater


def plain():
    return Fabric(accelerator="cpu", devices=1)


def scaled():
    """What 16-mixed does on a GPU: losses scaled, gradients unscaled before they are clipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])


@pytest.mark.parametrize("reading", next(leaf.words for leaf in options_of(JointConfig) if leaf.name == "reading"))
@pytest.mark.parametrize("clip", [None, 0.1])
def test_half_precision_with_scaled_losses_moves_as_full_precision_does(reading, clip):
    start = torch.cat([p.detach().flatten() for p in MetaSum(small_network().float()).parameters()])
    full, _ = trained(plain(), reading, clip)
    half, _ = trained(scaled(), reading, clip)
    assert torch.cosine_similarity(full - start, half - start, dim=0) > 0.99
    assert 0.95 < (half - start).norm() / (full - start).norm() < 1.05


def test_an_updater_goes_on_from_its_state():
    whole, one = trained(plain(), "cross-entropy", None)
    parts, other = trained(plain(), "cross-entropy", None, resume_at=2)
    assert torch.equal(whole, parts)
    assert one.learning_rate == other.learning_rate


def test_the_learning_rate_follows_the_schedule():
    for steps in (1, 4, 7):
        _, updater = trained(plain(), "cross-entropy", None, steps=steps)
        expected = 1e-2 * learning_rate_factor(steps, steps=8, warmup=0, schedule="cosine")
        assert updater.learning_rate == pytest.approx(expected)


def test_the_names_in_the_settings_are_those_of_what_they_name():
    assert set(get_args(words.Operator)) == {*composition.OPERATORS, "task-arithmetic", "learned"}
    assert set(get_args(words.Backend)) == set(functional.BACKENDS)
    networks = MetaSum(small_network()).train()
    networks.summed(images())
    for statistics in set(get_args(words.Statistics)) - {"own"}:
        networks.summed_network([images()], statistics=statistics)
    with pytest.raises(UsageError, match="without a channel in common"):
        networks.summed_network([images()], statistics="own")
