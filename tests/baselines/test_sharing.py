"""Two heads and multi-input: what is shared is one tensor, and there is nothing left to add."""

import pytest
import torch
from tiny import images, labels, small_network, summed_networks
from torch.nn.functional import cross_entropy

from metasum import MetaSum, recalibrate
from metasum.baselines.multi_input import MultiInputLearner
from metasum.baselines.two_head import TwoHeadConfig, TwoHeadLearner
from metasum.config.sections import NetworkConfig
from metasum.errors import UsageError
from metasum.networks.build import build_network
from metasum.types import Batch

TARGET, SUPPORT = Batch(images(seed=1), labels(seed=1)), Batch(images(seed=2), labels(seed=2))


def two_head(until="5"):
    networks = MetaSum(small_network(0))
    return networks, TwoHeadLearner(networks, TwoHeadConfig(shared_until=until))


def shared_names(networks):
    support = dict(networks.support.named_parameters())
    return [name for name, tensor in networks.target.named_parameters() if tensor is support[name]]


def test_the_trunk_is_one_set_of_tensors_and_the_heads_are_two():
    networks, learner = two_head()
    assert shared_names(networks) == ["0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias"]
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        learner.training_step(TARGET, SUPPORT)
        optimizer.step()
    assert torch.equal(networks.target[0].weight, networks.support[0].weight)
    assert not torch.equal(networks.target[7].weight, networks.support[7].weight)
    assert networks.target[1].running_mean is not networks.support[1].running_mean


def test_the_trunks_gradient_is_the_sum_of_both():
    networks, learner = two_head()
    learner.training_step(TARGET, SUPPORT)
    alone = small_network(0)
    gradients = []
    for batch in (TARGET, SUPPORT):
        alone.zero_grad()
        cross_entropy(alone(batch.images), batch.labels).backward()
        gradients.append(alone[0].weight.grad.clone())
    torch.testing.assert_close(networks.target[0].weight.grad, gradients[0] + gradients[1])


@pytest.mark.parametrize(
    ("network", "until", "last"),
    [
        ("vgg16", None, "block_4.7.bias"),
        ("vgg16", "block_2", "block_2.4.bias"),
        ("vgg16", "classifier.1", "classifier.1.bias"),
        ("resnet", None, "stage_3.1.bn2.bias"),
    ],
)
def test_where_the_trunk_ends(network, until, last):
    model = build_network(NetworkConfig(network=network, width=0.02, num_classes=4), in_channels=1, seed=0)
    networks = MetaSum(model)
    TwoHeadLearner(networks, TwoHeadConfig(shared_until=until))
    assert shared_names(networks)[-1] == last


@pytest.mark.parametrize(
    ("until", "words"), [("blok", "unknown module"), ("7", "leaves nothing for two heads"), ("6", "unknown module")]
)
def test_a_trunk_that_cannot_be(until, words):
    with pytest.raises(UsageError, match=words):
        two_head(until)


def test_after_the_sum_is_the_shared_network_itself():
    networks, learner = two_head()
    learner.training_step(TARGET, SUPPORT)
    own = images(seed=5), images(seed=6)
    for network, alone, batch in zip(
        summed_networks(learner, *own), (networks.target, networks.support), own, strict=True
    ):
        expected = small_network()
        expected.load_state_dict(alone.state_dict())
        assert torch.equal(network(images()), recalibrate(expected, [batch])(images()))
        assert network is not alone


def test_multi_input_runs_both_batches_through_one_network_in_one_pass():
    networks = MetaSum(small_network(0))
    learner = MultiInputLearner(networks, MultiInputLearner.Config())
    terms = learner.training_step(TARGET, SUPPORT)
    alone = small_network(0).train()
    outputs = alone(torch.cat([TARGET.images, SUPPORT.images]))
    losses = cross_entropy(outputs[:6], TARGET.labels), cross_entropy(outputs[6:], SUPPORT.labels)
    (losses[0] + losses[1]).backward()
    torch.testing.assert_close(terms["target"], losses[0].detach())
    torch.testing.assert_close(terms["support"], losses[1].detach())
    for mine, theirs in zip(networks.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert learner.target_network() is learner.support_network()
