"""Proximity: the pull is its formula, and its two limits are independent training and two heads."""

import pytest
import torch
from tiny import descend, images, labels, small_network

from metasum import MetaSum
from metasum.baselines.independent import IndependentLearner
from metasum.baselines.proximity import ProximityConfig, ProximityLearner
from metasum.baselines.two_head import TwoHeadConfig, TwoHeadLearner
from metasum.config import options_of
from metasum.errors import UsageError
from metasum.types import Batch
from metasum.weights.parameters import layers_of, parameters_of

TARGET, SUPPORT = Batch(images(seed=1), labels(seed=1)), Batch(images(seed=2), labels(seed=2))
LAYERS = [["0.weight", "0.bias", "1.weight", "1.bias"], ["5.weight", "5.bias"], ["7.weight", "7.bias"]]


def sgd_steps(learner, steps, rate=1e-2):
    return descend(learner, TARGET, SUPPORT, torch.optim.SGD(learner.parameters(), rate), steps)


def test_a_layer_is_a_kernel_or_matrix_with_the_vectors_behind_it():
    assert layers_of(parameters_of(small_network())) == LAYERS


def test_the_pull_is_twice_the_difference_and_holds_the_partner_constant():
    networks = MetaSum(small_network(0), support=small_network(1))
    config = ProximityConfig(proximity=0.3, proximity_decay=0.5)
    ProximityLearner(networks, config).training_step(TARGET, SUPPORT)
    pulled = {n: p.grad.clone() for n, p in networks.named_parameters()}
    networks.zero_grad()
    IndependentLearner(networks, IndependentLearner.Config()).training_step(TARGET, SUPPORT)
    for depth, layer in enumerate(LAYERS):
        for name in layer:
            mine, theirs = (networks.get_parameter(f"{side}.{name}") for side in ("target", "support"))
            expected = 2 * 0.3 * 0.5**depth * (mine - theirs)
            torch.testing.assert_close(pulled[f"target.{name}"] - mine.grad, expected)
            torch.testing.assert_close(pulled[f"support.{name}"] - theirs.grad, -expected)


def test_its_loss_term_is_the_weighted_distance():
    networks = MetaSum(small_network(0), support=small_network(1))
    config = ProximityConfig(proximity=2.0, proximity_weights=(1, 0, 0.5))
    term = ProximityLearner(networks, config).training_step(TARGET, SUPPORT)["proximity"]
    distances = [
        sum(
            (networks.get_parameter(f"target.{n}") - networks.get_parameter(f"support.{n}")).square().sum()
            for n in layer
        )
        for layer in LAYERS
    ]
    torch.testing.assert_close(term, (2 * (distances[0] + 0.5 * distances[2])).detach())


def test_without_a_pull_it_is_independent_training():
    pairs = [MetaSum(small_network(0)) for _ in range(2)]
    terms = sgd_steps(ProximityLearner(pairs[0], ProximityConfig(proximity=0)), 20)
    sgd_steps(IndependentLearner(pairs[1], IndependentLearner.Config()), 20)
    assert set(terms) == {"target", "support"}
    for mine, theirs in zip(pairs[0].parameters(), pairs[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_an_ever_stronger_pull_on_the_trunk_ends_in_two_heads():
    """Both trunks take the mean of two gradients, where the shared trunk takes their sum: half the rate there."""
    rate, steps = 1e-3, 200
    shared = MetaSum(small_network(0))
    two_head = TwoHeadLearner(shared, TwoHeadConfig(shared_until="5"))
    trunk = [shared.target.get_parameter(name) for layer in LAYERS[:2] for name in layer]
    heads = [module.get_parameter(name) for module in (shared.target, shared.support) for name in LAYERS[2]]
    optimizer = torch.optim.SGD([{"params": trunk, "lr": rate / 2}, {"params": heads, "lr": rate}])
    for _ in range(steps):
        optimizer.zero_grad()
        two_head.training_step(TARGET, SUPPORT)
        optimizer.step()

    def distance(pull):
        pair = MetaSum(small_network(0))
        sgd_steps(ProximityLearner(pair, ProximityConfig(proximity=pull, proximity_weights=(1, 1, 0))), steps, rate)
        return sum(
            float((pair.get_parameter(f"{side}.{n}") - getattr(shared, side).get_parameter(n)).detach().square().sum())
            for side in ("target", "support")
            for layer in LAYERS
            for n in layer
        )

    weak, strong, stronger = distance(0.1), distance(5.0), distance(100.0)
    assert stronger < strong / 5 < weak / 25
    assert stronger < 1e-5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2", "takes a number for each of the network's 3 layers, not 2"),
        ("1,2,3,4", "takes a number for each of the network's 3 layers, not 4"),
        ("1,x,3", "takes a number, not 'x'"),
        ("1,-1,1", "must be at least 0, not -1"),
        ("1,nan,1", "takes a finite number"),
        ("", "takes values separated by commas"),
    ],
)
def test_layer_weights_that_do_not_fit(text, words):
    leaf = next(leaf for leaf in options_of(ProximityConfig) if leaf.name == "proximity_weights")
    with pytest.raises(UsageError, match=f"--proximity-weights {words}"):
        ProximityLearner(MetaSum(small_network()), ProximityConfig(proximity_weights=leaf.parsed(text)))
