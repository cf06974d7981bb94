"""The module that wraps two networks and their sum."""

import pytest
import torch
from tiny import images, labels, small_network
from torch import nn
from torch.nn.functional import cross_entropy

from metasum import MetaSum
from metasum.config.sections import NetworkConfig
from metasum.errors import ArchitectureError, UsageError
from metasum.networks.build import build_network
from metasum.weights.functional import BACKENDS
from metasum.weights.parameters import layers_of


def test_both_networks_start_as_copies_of_the_model():
    model = small_network()
    networks = MetaSum(model)
    for name, parameter in model.named_parameters():
        for own in (networks.target, networks.support):
            copied = own.get_parameter(name)
            assert torch.equal(copied, parameter)
            assert copied is not parameter


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", ["sum", "average"])
def test_the_sums_loss_reaches_both_networks_alike(backend, operator):
    networks = MetaSum(small_network(0), support=small_network(1), operator=operator, backend=backend)
    cross_entropy(networks.summed(images()), labels()).backward()
    for mine, theirs in zip(networks.target.parameters(), networks.support.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    # finite difference along one weight of the target
    weight, at = networks.target[5].weight, (0, 0)
    networks.eval()
    networks.zero_grad()
    cross_entropy(networks.summed(images()), labels()).backward()
    slope, epsilon = weight.grad[at].clone(), 1e-6
    with torch.no_grad():
        weight[at] += epsilon
        up = cross_entropy(networks.summed(images()), labels())
        weight[at] -= 2 * epsilon
        down = cross_entropy(networks.summed(images()), labels())
    torch.testing.assert_close(slope, (up - down) / (2 * epsilon), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", ["sum", "average"])
def test_a_detached_sum_hands_on_the_same_gradients(backend, operator):
    def made():
        return MetaSum(small_network(0), support=small_network(1), operator=operator, backend=backend).train()

    through, apart = made(), made()
    for seed in (1, 2):
        cross_entropy(through.summed(images(seed=seed)), labels()).backward()
    summed = apart.detached_sum()
    for seed in (1, 2):
        cross_entropy(summed(images(seed=seed)), labels()).backward()
    assert all(p.grad is None for p in apart.parameters())
    summed.hand_on()
    for mine, theirs in zip(apart.parameters(), through.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)
    assert all(torch.equal(b, c) for b, c in zip(apart.buffers(), through.buffers(), strict=True))


def test_the_sum_keeps_statistics_of_its_own_and_state_dict_holds_them():
    networks = MetaSum(small_network()).train()
    before = {n: b.clone() for n, b in networks.target.named_buffers()}
    networks.summed(images())
    assert all(torch.equal(b, before[n]) for n, b in networks.target.named_buffers())
    copy = MetaSum(small_network(3))
    copy.load_state_dict(networks.state_dict())
    batch = images(seed=5)
    assert torch.equal(copy.eval().summed(batch), networks.eval().summed(batch))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)),
        build_network(NetworkConfig(network="resnet", width=0.25, num_classes=10), in_channels=1, seed=0),
        build_network(NetworkConfig(width=0.02, norm="group", num_classes=10), in_channels=1, seed=0),
    ],
    ids=["linear", "resnet", "vgg-group"],
)
def test_any_module_can_be_wrapped(model):
    networks = MetaSum(model)
    x = torch.randn(4, 1, 32, 32)
    networks.summed(x).sum().backward()
    assert all(p.grad is not None for p in networks.parameters())
    assert networks.summed_network([x])(x).shape == (4, 10)


def test_a_support_of_another_architecture_is_refused():
    with pytest.raises(ArchitectureError, match=r"'7.weight' is \[4, 5\] float64 in the target network and \[6, 5\]"):
        MetaSum(small_network(), support=small_network(classes=6))


def test_unknown_operator_and_backend_are_refused():
    with pytest.raises(UsageError, match="unknown operator 'difference'"):
        MetaSum(small_network(), operator="difference")
    with pytest.raises(UsageError, match="unknown backend 'jax'"):
        MetaSum(small_network(), backend="jax")


def test_task_arithmetic_adds_what_was_learnt_to_the_start():
    networks = MetaSum(small_network(), operator="task-arithmetic", scaling=0.7)
    start = {name: tensor.detach().clone() for name, tensor in networks.target.named_parameters()}
    with torch.no_grad():
        for parameter in networks.target.parameters():
            parameter.add_(0.1)
        for parameter in networks.support.parameters():
            parameter.add_(0.2)
    for name, tensor in networks.summed_parameters().items():
        torch.testing.assert_close(tensor, start[name] + 0.7 * 0.3)
    with pytest.raises(UsageError, match="one initialisation"):
        MetaSum(small_network(), support=small_network(1), operator="task-arithmetic")


def test_a_shared_start_gets_its_part_of_task_arithmetics_gradient():
    networks = MetaSum(small_network(), shared=True, operator="task-arithmetic", scaling=0.7, lr=0.1)
    clones = networks.clone()
    clones.summed(images()).sum().backward()  # no step yet: the sum is θ_0 itself, whatever λ
    found = [parameter.grad.clone() for parameter in networks.target.parameters()]
    networks.zero_grad()
    networks.target(images()).sum().backward()
    for mine, theirs in zip(found, networks.target.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad)


def test_learned_coefficients_start_as_the_sum_and_train_with_the_rest():
    networks, plain = MetaSum(small_network(), operator="learned"), MetaSum(small_network())
    torch.testing.assert_close(networks.summed(images()), plain.summed(images()))
    networks.summed(images()).square().sum().backward()
    plain.summed(images()).square().sum().backward()
    for mine, theirs in zip(networks.target.parameters(), plain.target.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert networks.coefficients.shape == (2, 3)
    assert (networks.coefficients.grad.abs() > 0).any()
    assert any(parameter is networks.coefficients for parameter in networks.parameters())


def test_learned_coefficients_weigh_each_network_and_layer():
    networks = MetaSum(small_network(0), support=small_network(1), operator="learned")
    with torch.no_grad():
        networks.coefficients.copy_(torch.arange(6.0).view(2, 3))
    found, support = networks.summed_parameters(), dict(networks.support.named_parameters())
    for name, tensor in networks.target.named_parameters():
        layer = next(index for index, names in enumerate(layers_of(found)) if name in names)
        torch.testing.assert_close(found[name], layer * tensor + (3 + layer) * support[name])
