"""Networks that run in unusual ways: each is summed rightly, in a backend that was checked, or refused by name."""

import copy
import random

import numpy as np
import odd_layers
import odd_modules
import odd_refusals
import pytest
import torch
from odd_modules import ALL, Checkpointed, CheckpointedInTraining, PlainList, hooked, odd_module
from torch import nn

from metasum import MetaSum, functional_call
from metasum.errors import ArchitectureError, UsageError
from metasum.networks.vgg import VGG16
from metasum.weights import runner
from metasum.weights.inputs import Inputs, tensors_in
from metasum.weights.structure import is_plain

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
RUN = odd_modules.RUN | odd_layers.RUN
REFUSED = odd_modules.REFUSED | odd_refusals.REFUSED
ONCE = (
    "checkpoint in training only",
    "new tensor in a buffer's place",
)  # what is unusual of them shows in train mode only


def inputs_of(kind):
    return odd_layers.INPUTS.get(kind, Inputs.of(X)).copies()


def pair(make, **keywords):
    return MetaSum(odd_module(make, 0), support=odd_module(make, 1), **keywords)


def assert_summed_rightly(networks, kind):
    """Value and gradients against a network whose parameters are really overwritten."""
    reference = odd_module(RUN[kind][0], 2).train(networks.training)
    own = [dict(network.named_parameters()) for network in (networks.target, networks.support)]
    before = copy.deepcopy([network.state_dict() for network in (networks.target, networks.support)])
    composed = networks.summed_parameters()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(composed[name])
        for buffer, value in zip(reference.buffers(), networks.target.buffers(), strict=True):
            buffer.copy_(value)
    expected = run_with_backward(reference, kind)
    networks.zero_grad()
    found = run_with_backward(networks, kind)
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs)
    for name, parameter in reference.named_parameters():
        for operand in own:
            if parameter.requires_grad:
                assert_close(operand[name].grad.to_dense(), parameter.grad.to_dense())
    for state, network in zip(before, (networks.target, networks.support), strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def run_with_backward(network, kind):
    torch.manual_seed(7)
    answers = list(tensors_in(inputs_of(kind).call(network)))
    sum(answer.abs().square().sum() for answer in answers if answer.requires_grad).backward()
    return answers


def assert_close(found, expected):
    exact = expected.dtype in (torch.float64, torch.complex128)
    torch.testing.assert_close(found, expected, **({"rtol": 1e-10, "atol": 1e-12} if exact else {}))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", RUN)
def test_the_backend_that_is_taken_sums_rightly(kind, training):
    make, right = RUN[kind]
    networks = pair(make).train(training)
    inputs_of(kind).call(networks.summed)
    if training or kind not in ONCE:
        assert networks.backend == right[0]
    networks = pair(make).train(training)  # anew: a forward in training moves statistics
    assert_summed_rightly(networks, kind)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("kind", RUN)
def test_a_backend_that_is_asked_for_sums_rightly_or_names_another(kind, backend):
    make, right = RUN[kind]
    if backend in right:
        assert_summed_rightly(pair(make, backend=backend), kind)
        return
    with pytest.raises(UsageError, match=f"backend {backend} .*; take backend '{right[0]}'"):
        inputs_of(kind).call(pair(make, backend=backend).summed)


@pytest.mark.parametrize("backend", [None, *ALL])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_backend_can_run_is_refused_by_name(kind, backend):
    make, words = REFUSED[kind]
    model = make() if kind in ("lazy, no batch yet", "torch.jit.script", "torch.jit.trace") else odd_module(make)
    with pytest.raises((UsageError, ArchitectureError), match=words):
        inputs_of(kind).call(MetaSum(model, backend=backend).summed)


@pytest.mark.parametrize("kind", RUN)
def test_clones_are_checked_as_the_sum_is(kind):
    make, right = RUN[kind]
    networks = MetaSum(odd_module(make), shared=True, lr=0.0)
    found = inputs_of(kind).call(networks.clone().target)
    assert networks.backend == right[0]
    if kind not in ("draws random numbers", "spectral_norm", "old spectral_norm"):
        for mine, theirs in zip(tensors_in(found), tensors_in(inputs_of(kind).call(odd_module(make))), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_transformers_fast_path_runs_with_the_summed_weights():
    networks = pair(odd_layers.Encoder).eval()
    with torch.no_grad():
        fast = networks(*inputs_of("transformer").positional)
    torch.testing.assert_close(fast, networks(*inputs_of("transformer").positional))


def test_an_exported_program_is_summed():
    model = torch.export.export(odd_module(odd_modules.Odd), (X,)).module()
    networks = MetaSum(model)
    networks.summed(X).sum().backward()
    assert networks.backend == "torch"
    assert all(own.grad is not None for own in networks.parameters())


@pytest.mark.parametrize("kind", RUN)
def test_the_check_leaves_no_trace(kind):
    make, _ = RUN[kind]
    networks = pair(make)
    before = copy.deepcopy(networks.state_dict())
    for parameter in networks.parameters():
        parameter.grad = torch.ones_like(parameter)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    inputs = inputs_of(kind)
    networks._run_target.check(networks.target, dict(networks.target.named_buffers()), inputs)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.state_dict().items())
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in networks.parameters())
    assert all(map(torch.equal, tensors_in(tuple(inputs)), tensors_in(tuple(inputs_of(kind)))))


def test_a_network_is_probed_once_in_each_mode(monkeypatch):
    made = []
    probe = runner.Probe
    monkeypatch.setattr(runner, "Probe", lambda *arguments: made.append(1) or probe(*arguments))
    networks = pair(hooked)
    for training in (True, True, False, True, False):
        networks.train(training).summed(X)
    assert len(made) == 2


def test_a_backend_that_fails_in_the_second_mode_only_is_left_for_another():
    networks = pair(CheckpointedInTraining, backend="torch").eval()
    networks.summed(X)
    with pytest.raises(UsageError, match=r"another gradient .*, of 'first.bias' and .*; take backend 'learn2learn'"):
        networks.train().summed(X)


def test_with_example_images_the_refusal_comes_at_construction():
    with pytest.raises(UsageError, match="take backend 'torch'"):
        MetaSum(odd_module(PlainList), backend="learn2learn", example=X)
    with pytest.raises(UsageError, match="take backend 'learn2learn'"):
        MetaSum(odd_module(Checkpointed), backend="torch", example=X)
    assert MetaSum(odd_module(PlainList), example=X).backend == "torch"


def test_structure_alone_refuses_hooks_under_higher_at_construction():
    with pytest.raises(UsageError, match=r"backend higher cannot: 'first' .Linear. has forward hooks.*'learn2learn'"):
        MetaSum(odd_module(hooked), backend="higher")


@pytest.mark.parametrize("backend", ALL)
def test_functional_call_never_takes_a_compiled_networks_parameters(backend):
    network = odd_module(RUN["torch.compile"][0])
    parameters = {name: own + 1 for name, own in network.named_parameters()}
    if backend == "torch":
        functional_call(network, parameters, {}, X, backend=backend)
    else:
        with pytest.raises(UsageError, match=r"is compiled by torch.compile"):
            functional_call(network, parameters, {}, X, backend=backend)
    assert len(list(network.parameters())) == 4


def test_a_network_without_gradients_is_compared_by_its_values():
    networks = pair(PlainList)
    with torch.inference_mode():
        found = networks.eval().summed(X)
    assert networks.backend == "torch"
    total = odd_module(PlainList)
    with torch.no_grad():
        for mine, first, second in zip(
            total.parameters(), networks.target.parameters(), networks.support.parameters(), strict=True
        ):
            mine.copy_(first + second)
    torch.testing.assert_close(found, total(X))


def test_our_own_network_needs_no_probe_until_somebody_adds_to_it():
    network = VGG16(width=0.02, num_classes=4)
    assert is_plain(network)
    network.classifier[1].register_forward_hook(lambda module, inputs, output: output * 2)
    assert not is_plain(network)

    class Other(VGG16):  # a subclass declares for itself
        def forward(self, images):
            return super().forward(images)

    assert not is_plain(Other(width=0.02, num_classes=4))
    assert is_plain(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
