"""Integer parameters and frozen parts: kept where networks hold the same, refused by name where they differ."""

import pytest
import torch
from tiny import images, labels, small_network
from torch import nn
from torch.nn.functional import cross_entropy

from metasum import MetaSum, sum_parameters
from metasum.errors import ArchitectureError, UsageError
from metasum.merging.memory import merge_parameters
from metasum.merging.plain import Average
from metasum.weights.composition import average_parameters, task_arithmetic
from metasum.weights.parameters import parameters_of

OPERATORS = ("sum", "average", "task-arithmetic", "learned")


class Indexed(nn.Module):
    """Permutes its inputs by an integer parameter."""

    def __init__(self, order=(1, 0, 2)):
        super().__init__()
        self.order = nn.Parameter(torch.tensor(order), requires_grad=False)
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x[:, self.order])


def frozen_trunk(seed=0, trunk_seed=0):
    """A small network whose convolution is frozen."""
    network = small_network(seed)
    network[0].load_state_dict(small_network(trunk_seed)[0].state_dict())
    network[0].requires_grad_(False)
    return network


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_integer_parameter_is_kept(operator):
    networks = MetaSum(Indexed(), operator=operator)
    networks.summed(torch.randn(4, 3)).sum().backward()
    assert networks.summed_parameters()["order"].tolist() == [1, 0, 2]
    assert networks.target.layer.weight.grad is not None
    summed = networks.detached_sum()
    summed(torch.randn(4, 3)).sum().backward()
    summed.hand_on()
    assert networks.summed_network([]).order.tolist() == [1, 0, 2]


@pytest.mark.parametrize("inner", ["sgd", "meta-sgd", "adam"])
def test_clones_of_a_network_with_an_integer_parameter_adapt(inner):
    clones = MetaSum(Indexed(), shared=True, inner_optimizer=inner).clone()
    clones.adapt(clones.target(torch.randn(4, 3)).sum() + clones.support(torch.randn(4, 3)).sum())
    clones.summed(torch.randn(4, 3)).sum().backward()


def test_integer_parameters_that_differ_are_refused_by_name():
    sets = [parameters_of(Indexed()), parameters_of(Indexed((2, 0, 1)))]
    for operator in (sum_parameters, average_parameters, lambda s: task_arithmetic(s[1:], s[0], scaling=0.5)):
        with pytest.raises(ArchitectureError, match=r"'order' is an integer parameter.*differs"):
            operator(sets)


def test_methods_of_merging_keep_integers_and_refuse_those_that_differ():
    method = Average()
    same, other = parameters_of(Indexed()), parameters_of(Indexed((2, 0, 1)))
    assert merge_parameters(method, [same, same])["order"].tolist() == [1, 0, 2]
    with pytest.raises(ArchitectureError, match="'order' is of integers, which cannot be merged, and differs"):
        merge_parameters(method, [same, other])


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_frozen_trunk_is_one_trunk_in_the_sum(operator):
    networks = MetaSum(
        frozen_trunk(0), support=None if operator == "task-arithmetic" else frozen_trunk(1), operator=operator
    )
    summed = networks.summed_parameters()
    assert torch.equal(summed["0.weight"], networks.target[0].weight)
    assert networks.summed_network([images()])[0].weight.equal(networks.target[0].weight)
    cross_entropy(networks.summed(images()), labels()).backward()
    assert networks.target[0].weight.grad is None
    assert networks.support[7].weight.grad.abs().sum() > 0
    if operator == "sum":
        assert torch.equal(summed["7.weight"], networks.target[7].weight + networks.support[7].weight)


def test_frozen_parts_that_differ_are_refused_by_name():
    with pytest.raises(ArchitectureError, match=r"'0.weight' is frozen, and differs .* or let it require gradients"):
        MetaSum(frozen_trunk(), support=frozen_trunk(1, trunk_seed=1))
    networks = MetaSum(frozen_trunk())
    stranger = parameters_of(frozen_trunk(1, trunk_seed=1))
    with pytest.raises(ArchitectureError, match=r"'0.weight' is frozen"):
        networks.detached_sum([parameters_of(networks.target), stranger])


def test_networks_of_which_nothing_is_trained_are_added_whole():
    networks = MetaSum(small_network().requires_grad_(False))
    assert torch.equal(networks.summed_parameters()["0.weight"], 2 * networks.target[0].weight)


def test_a_part_that_is_trained_later_is_refused_rather_than_taken_from_one_network():
    networks = MetaSum(frozen_trunk())
    networks.support[0].requires_grad_(True)
    with pytest.raises(UsageError, match=r"'0.weight' was frozen when the MetaSum was made"):
        networks.summed(images())


def test_an_unknown_operator_is_answered_with_all_four_and_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean 'learned'. Known: average, learned, sum, task-arithmetic"):
        MetaSum(small_network(), operator="lerned")
    with pytest.raises(UsageError, match="known: average, learned, sum, task-arithmetic"):
        MetaSum(small_network(), operator="xyz")
