"""The joint objective: three terms, three readings, and its limits."""

import pytest
import torch
from refusal import nothing_written, refused
from tiny import images, labels, small_network
from torch.func import functional_call
from torch.nn.functional import cross_entropy, softmax

from metasum import MetaSum
from metasum.baselines.independent import IndependentLearner
from metasum.config import options_of
from metasum.learners.joint import JointConfig, JointLearner, ObjectiveConfig, sum_loss
from metasum.types import Batch

TARGET = Batch(images(seed=1), labels(seed=1))
SUPPORT = Batch(images(seed=2), labels(seed=2))

READINGS = next(leaf.words for leaf in options_of(ObjectiveConfig) if leaf.name == "reading")


def learner(**values):
    return JointLearner(MetaSum(small_network(0), support=small_network(1)), JointConfig(**values))


def alone(networks):
    return IndependentLearner(networks, IndependentLearner.Config())


def written_out(networks, settings):
    """The objective as one expression, from the definition."""
    total = 0
    for network, batch, weight, counts in (
        (networks.target, TARGET, settings.target_weight, True),
        (networks.support, SUPPORT, settings.support_weight, settings.symmetric),
    ):
        logits, summed = network(batch.images), networks.summed(batch.images)
        alone, after = cross_entropy(logits, batch.labels), cross_entropy(summed, batch.labels)
        third = {
            "cross-entropy": after,
            "gap": (after - alone).abs(),
            "consistency": -(softmax(logits, 1).detach() * summed.log_softmax(1)).sum(1).mean(),
        }[settings.reading]
        total = total + weight * alone + (settings.sum_weight * third if counts else 0)
    return total


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_are_those_of_the_objective_written_out(reading, symmetric):
    stepped = learner(reading=reading, symmetric=symmetric, target_weight=0.5, support_weight=2.0, sum_weight=3.0)
    whole = MetaSum(small_network(0), support=small_network(1))
    terms = stepped.training_step(TARGET, SUPPORT)
    loss = written_out(whole, stepped.config)
    loss.backward()
    weights = {"target": 0.5, "support": 2.0, "sum": 3.0, "sum_support": 3.0}
    torch.testing.assert_close(sum(weights[n] * t for n, t in terms.items()), loss.detach())
    for mine, theirs in zip(stepped.networks.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)
    assert set(terms) == {"target", "support", "sum"} | ({"sum_support"} if symmetric else set())
    assert not any(t.requires_grad for t in terms.values())


def test_no_weight_on_the_sum_is_independent_training():
    joint, plain = learner(sum_weight=0.0), alone(MetaSum(small_network(0), support=small_network(1)))
    optimizers = [torch.optim.Adam(x.parameters(), 1e-2) for x in (joint, plain)]
    for _ in range(5):
        for trained, optimizer in zip((joint, plain), optimizers, strict=True):
            optimizer.zero_grad()
            trained.training_step(TARGET, SUPPORT)
            optimizer.step()
    for mine, theirs in zip(joint.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_consistency_holds_the_networks_own_prediction_constant():
    logits = torch.randn(3, 4, requires_grad=True)
    summed = torch.randn(3, 4, requires_grad=True)
    loss = sum_loss("consistency", summed, labels(3), logits=logits, loss=cross_entropy(logits, labels(3)))
    loss.backward()
    assert logits.grad is None
    torch.testing.assert_close(summed.grad, (softmax(summed, 1) - softmax(logits, 1)).detach() / 3)


def test_training_makes_the_sum_right_where_plain_training_does_not():
    def after(make):
        pair = make(MetaSum(small_network(0), support=small_network(0)))
        optimizer = torch.optim.Adam(pair.parameters(), 3e-2)
        for _ in range(60):
            optimizer.zero_grad()
            pair.training_step(TARGET, SUPPORT)
            optimizer.step()
        with torch.no_grad():
            return float(cross_entropy(pair.networks.summed_network([TARGET.images])(TARGET.images), TARGET.labels))

    joint = after(lambda networks: JointLearner(networks, JointConfig()))
    assert joint < 0.5 * after(alone)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_pools_network_takes_the_partners_place_in_the_sum(symmetric):
    stranger = {name: tensor.detach() for name, tensor in small_network(7).named_parameters()}
    networks = MetaSum(small_network(0), support=small_network(1))
    stepped = JointLearner(networks, JointConfig(symmetric=symmetric), pool=[stranger])
    terms = stepped.training_step(TARGET, SUPPORT)
    for own, batch, added in ((small_network(0), TARGET, True), (small_network(1), SUPPORT, symmetric)):
        with_stranger = {name: tensor + stranger[name] for name, tensor in own.named_parameters()}
        loss = cross_entropy(own(batch.images), batch.labels)
        if added:
            loss = loss + cross_entropy(functional_call(own, with_stranger, (batch.images,)), batch.labels)
        loss.backward()
        mine = networks.target if batch is TARGET else networks.support
        for stepped_parameter, parameter in zip(mine.parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(stepped_parameter.grad, parameter.grad, rtol=0, atol=1e-12)
    assert ("sum_support" in terms) == symmetric


def test_every_network_of_a_pool_has_its_turn():
    pool = [{name: tensor.detach() for name, tensor in small_network(n).named_parameters()} for n in range(3)]
    stepped = JointLearner(MetaSum(small_network(5)), JointConfig(), pool=pool)
    torch.manual_seed(0)
    losses = {round(float(stepped.training_step(TARGET, SUPPORT)["sum"]), 9) for _ in range(30)}
    assert len(losses) == 3


def test_a_pool_is_read_from_weights_files(metasum, tiny, tmp_path):
    assert metasum("train", *tiny, "--learner", "independent").code == 0
    folder = tmp_path / "runs" / "rows+lines" / "independent-seed0"
    files = f"{folder / 'target.safetensors'}, {folder / 'support.safetensors'}"
    assert metasum("train", *tiny, "--pool", files).code == 0
    lone = metasum("train", *tiny, "--overwrite", "--width", 0.05, "--pool", folder / "target.safetensors")
    refused(lone, 1, "target.safetensors", "block_2.0.weight")
    refused(metasum("train", *tiny, "--name", "other", "--pool", tmp_path / "none.safetensors"), 1, "none.safetensors")
    assert not (tmp_path / "runs" / "rows+lines" / "other").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--learner", "independent"), "--pool"),
        (("--learner", "metasum-meta"), "--pool"),
        (("--sum-weight", 0), "--pool"),
    ],
)
def test_a_pool_that_nothing_would_read_is_refused(metasum, tiny, tmp_path, flags, words):
    refused(metasum("train", *tiny, "--pool", "a.safetensors", *flags), 2, words)
    assert nothing_written(tmp_path)
