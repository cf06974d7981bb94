"""Meta Networks and Meta-Transfer Learning as learners of two datasets whose networks are added."""

import itertools
import json

import pytest
import torch
from refusal import refused
from tiny import descend, images, labels, small_network, summed_networks

from metasum import MetaSum, load_network, settings, train
from metasum.baselines.meta_networks.pair import MetaNetworksLearner
from metasum.baselines.meta_transfer.pair import MetaTransferConfig, MetaTransferLearner
from metasum.errors import ArchitectureError
from metasum.networks.augmented import Augmented
from metasum.networks.resnet import ResNet
from metasum.training.progress import SilentDisplay
from metasum.types import Batch
from metasum.weights.parameters import parameters_of

TARGET, SUPPORT = Batch(images(seed=1), labels(seed=1)), Batch(images(seed=2), labels(seed=2))
UNLABELLED = images(seed=4), images(seed=5)


def trained(learner, steps=3):
    descend(learner, TARGET, SUPPORT, torch.optim.Adam(learner.parameters(), 1e-2), steps)
    return learner


def meta_networks():
    return MetaNetworksLearner(MetaSum(small_network()), MetaNetworksLearner.Config())


def meta_transfer(network=None, pretraining_steps=0):
    config = MetaTransferConfig(pretraining_steps=pretraining_steps, base_steps=3, base_lr=0.1)
    return MetaTransferLearner(MetaSum(network or small_network()), config)


def test_meta_networks_share_their_slow_weights_and_add_their_fast_ones():
    learner = trained(meta_networks())
    target, support = (parameters_of(n) for n in (learner.target_network(), learner.support_network()))
    summed = parameters_of(summed_networks(learner, *UNLABELLED).target)
    fast = [name for name in target if name.startswith("fast.")]
    assert len(fast) == 2
    for name, tensor in target.items():
        assert (name in fast) != torch.equal(tensor, support[name])
        torch.testing.assert_close(summed[name], tensor + support[name] if name in fast else tensor)


def test_meta_networks_train_slow_weights_and_meta_learner_from_both_datasets():
    learner = meta_networks()
    learner.training_step(TARGET, SUPPORT)
    assert all(p.grad is not None for p in learner.parameters())
    before = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    learner.training_step(TARGET, Batch(SUPPORT.images, SUPPORT.labels.flip(0)))
    assert any(not torch.equal(p.grad, b) for p, b in zip(learner.parameters(), before, strict=True))


def test_writing_fast_weights_leaves_running_statistics_to_the_half_that_is_judged():
    learner = meta_networks()
    learner.training_step(TARGET, SUPPORT)
    assert int(learner.networks.target[1].num_batches_tracked) == 1


def test_an_augmented_network_starts_as_it_was_and_a_chain_is_asked_for():
    torch.manual_seed(0)
    network = small_network().eval()
    x = images(3)
    expected = network(x)
    torch.testing.assert_close(Augmented(network).eval()(x), expected, rtol=0, atol=0)
    with pytest.raises(ArchitectureError, match="ResNet"):
        Augmented(ResNet(width=0.1))


def test_the_trunk_learns_in_pretraining_and_is_frozen_after_it():
    learner = meta_transfer(pretraining_steps=2)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2, weight_decay=0.1)
    trunk = learner.networks.target[0].weight
    weights = [trunk.detach().clone()]
    for _ in range(4):
        optimizer.zero_grad()
        learner.training_step(TARGET, SUPPORT)
        optimizer.step()
        weights.append(trunk.detach().clone())
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert moved == [True, True, False, False]


def test_before_is_the_frozen_trunk_with_one_datasets_scale_shift_and_classifier():
    learner = trained(meta_transfer())
    trunk = parameters_of(learner.networks.target)
    own = [parameters_of(network) for network in (learner.target_network(), learner.support_network())]
    for found, scale_shift in zip(own, learner.learnt[:2], strict=True):
        torch.testing.assert_close(found["0.weight"], trunk["0.weight"] * scale_shift.scales[0])
        torch.testing.assert_close(found["0.bias"], trunk["0.bias"] + scale_shift.shifts[0])
        torch.testing.assert_close(found["5.weight"], trunk["5.weight"])
    assert not torch.equal(own[0]["7.weight"], own[1]["7.weight"])
    summed = parameters_of(summed_networks(learner, *UNLABELLED).target)
    for name in summed:
        torch.testing.assert_close(summed[name], own[0][name] + own[1][name])


def test_a_network_without_linear_end_has_no_classifier_to_train():
    network = torch.nn.Sequential(small_network(), torch.nn.Sigmoid())
    with pytest.raises(ArchitectureError, match="linear layer"):
        meta_transfer(network)


@pytest.mark.parametrize("learner", ["meta-networks", "meta-transfer"])
def test_their_runs_can_be_read_back_and_added_to_strangers(metasum, tiny, tmp_path, learner):
    for target, support in (("rows", "lines"), ("lines", "rows")):
        flags = [*tiny, "--target", target, "--support", support, "--learner", learner]
        assert metasum("train", *flags).code == 0
    runs = [tmp_path / "runs" / pair / f"{learner}-seed0" for pair in ("rows+lines", "lines+rows")]
    network = load_network(runs[0] / "target.safetensors")
    assert isinstance(network, Augmented) == (learner == "meta-networks")
    outcome = metasum("sum", *runs, "--out", tmp_path / "runs", "--json")
    assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)["accuracy"]) == {"rows", "lines", "union"}


class Stopping(SilentDisplay):
    def stepped(self, step, **_):
        if step == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("learner", ["meta-networks", "meta-transfer"])
def test_a_stopped_run_of_theirs_goes_on_bit_for_bit(data_root, tmp_path, learner):
    config = settings(
        target="rows", support="lines", data_root=str(data_root), learner=learner, width=0.04, steps=6, batch_size=8,
        evaluate_every=0, checkpoint_every=1, calibration_batches=1, device="cpu",
    )  # fmt: skip
    train(config, out=tmp_path / "straight", report=False)
    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "stopped", report=False, display=Stopping())
    train(config, out=tmp_path / "stopped", resume=True, report=False)
    straight, resumed = (
        (tmp_path / run / "rows+lines" / f"{learner}-seed0" / "target.safetensors").read_bytes()
        for run in ("straight", "stopped")
    )
    assert straight == resumed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--learner", "metasum", "--base-steps", 3), "--base-steps"),
        (("--learner", "meta-networks", "--network", "resnet", "--dropout", 0.25), "--augmented"),
        (("--learner", "meta-networks", "--operator", "average"), "--operator"),
        (("--learner", "independent", "--augmented", "--tangent", "--norm", "none"), "--augmented"),
    ],
)
def test_what_they_do_not_go_with_is_refused(metasum, tiny, flags, words):
    refused(metasum("train", *tiny, *flags), 2, words)
