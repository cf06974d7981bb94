"""Three libraries, one function: outputs, gradients and buffers."""

import copy

import pytest
import torch
from tiny import images, labels, small_network
from torch import nn
from torch.nn.functional import cross_entropy

from metasum import functional_call, sum_parameters
from metasum.errors import ArchitectureError, UsageError
from metasum.weights.functional import BACKENDS
from metasum.weights.parameters import buffers_of, parameters_of

every_backend = pytest.mark.parametrize("backend", BACKENDS)


class Shared(nn.Module):
    """Uses one layer twice under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.again = self.first
        self.again_norm = self.norm

    def forward(self, x):
        return self.again_norm(self.again(self.norm(self.first(x)).tanh()))


def snapshot(network):
    return {n: t.detach().clone() for n, t in network.state_dict().items()}


def assert_unchanged(network, before):
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} changed"


def reference(first, second):
    """A network made the plain way: a copy whose weights are overwritten with the sum."""
    network = copy.deepcopy(first)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(parameters_of(first)[name] + parameters_of(second)[name])
    return network


@every_backend
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_a_network_that_has_the_summed_weights(backend, training):
    first, second = small_network(0).train(training), small_network(1).train(training)
    expected = reference(first, second)
    cross_entropy(expected(images()), labels()).backward()

    fresh = {n: b.clone() for n, b in buffers_of(first).items()}
    summed = sum_parameters([parameters_of(first), parameters_of(second)])
    logits = functional_call(first, summed, fresh, images(), backend=backend)
    cross_entropy(logits, labels()).backward()

    again = expected.train(training)
    expected_logits = reference(first, second).train(training)(images())
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-6)
    for name, parameter in again.named_parameters():
        for operand in (first, second):
            torch.testing.assert_close(parameters_of(operand)[name].grad, parameter.grad, rtol=0, atol=1e-6)
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(fresh[name], buffer, rtol=0, atol=1e-12)


@every_backend
def test_the_gradient_agrees_with_finite_differences(backend):
    network = small_network().train()
    names = list(parameters_of(network))

    def loss(*tensors):
        buffers = {n: b.clone() for n, b in buffers_of(network).items()}
        values = dict(zip(names, tensors, strict=True))
        return cross_entropy(functional_call(network, values, buffers, images(), backend=backend), labels())

    inputs = [t.detach().clone().requires_grad_() for t in parameters_of(network).values()]
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


@every_backend
@pytest.mark.parametrize("training", [True, False])
def test_no_tensor_of_the_networks_that_were_added_is_touched(backend, training):
    first, second = small_network(0).train(training), small_network(1).train(training)
    before = snapshot(first), snapshot(second)
    fresh = {n: b.clone() for n, b in buffers_of(first).items()}
    summed = sum_parameters([parameters_of(first), parameters_of(second)])
    functional_call(first, summed, fresh, images(), backend=backend).sum().backward()
    assert_unchanged(first, before[0])
    assert_unchanged(second, before[1])
    moved = not torch.equal(fresh["1.running_mean"], buffers_of(first)["1.running_mean"])
    assert moved == training, "the given buffers keep the running statistics in train mode, and only then"
    assert all(m.training == training for m in first.modules())


@every_backend
def test_a_layer_used_under_two_names_stays_one_layer(backend):
    network = Shared().double()
    other = {n: torch.randn_like(p) for n, p in network.named_parameters()}
    buffers = {n: b.clone() for n, b in network.named_buffers()}
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            parameter.copy_(other[name])
    torch.testing.assert_close(functional_call(network, other, buffers, x, backend=backend), expected(x))
    torch.testing.assert_close(buffers["norm.running_mean"], expected.norm.running_mean)
    assert int(buffers["norm.num_batches_tracked"]) == 2


@every_backend
def test_second_derivatives_pass(backend):
    network = small_network().eval()
    values = {n: t.detach().clone().requires_grad_() for n, t in parameters_of(network).items()}

    def gradient_norm(call):
        loss = cross_entropy(call(), labels())
        first = torch.autograd.grad(loss, list(values.values()), create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), values["0.weight"])[0]

    def call(kind):
        return lambda: functional_call(network, values, buffers_of(network), images(), backend=kind)

    torch.testing.assert_close(gradient_norm(call(backend)), gradient_norm(call("torch")), rtol=0, atol=1e-6)


def test_parameters_or_buffers_of_another_network_are_refused():
    network = small_network()
    parameters, buffers = parameters_of(network), buffers_of(network)
    with pytest.raises(ArchitectureError, match=r"'7.bias' is \[4\] float64 in the network and \[9\] float64"):
        functional_call(network, {**parameters, "7.bias": torch.zeros(9, dtype=torch.float64)}, buffers, images())
    with pytest.raises(ArchitectureError, match=r"'1.running_var' .* missing in the given buffers"):
        functional_call(network, parameters, {k: v for k, v in buffers.items() if "var" not in k}, images())


def test_an_unknown_backend_gets_the_nearest_name():
    network = small_network()
    with pytest.raises(UsageError, match="did you mean 'learn2learn'"):
        functional_call(network, parameters_of(network), buffers_of(network), images(), backend="learntolearn")
