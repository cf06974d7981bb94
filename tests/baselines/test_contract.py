"""What every learner must do, whoever wrote it."""

import io

import pytest
import torch
from tiny import descend, images, labels, small_network

from metasum import MetaSum, settings
from metasum.baselines.registry import LEARNERS
from metasum.types import Batch, Sides

TARGET, SUPPORT = Batch(images(seed=1), labels(seed=1)), Batch(images(seed=2), labels(seed=2))


@pytest.fixture(params=LEARNERS)
def learner(request):
    entry = LEARNERS[request.param]
    support = small_network(1) if "support_init_seed" in entry.preset else None
    return entry.factory(MetaSum(small_network(0), support=support), settings(learner=request.param, **entry.preset))


def take_steps(learner, count=3):
    return descend(learner, TARGET, SUPPORT, torch.optim.Adam(learner.parameters(), 1e-2), count)


def networks_of(learner):
    unlabelled = Sides([images(seed=4)], [images(seed=5)])
    return [learner.target_network(), learner.support_network(), *learner.summed_networks(unlabelled)]


def answers(learner):
    with torch.no_grad():
        return [network(images(seed=3)) for network in networks_of(learner)]


def test_a_step_returns_finite_detached_scalars_and_fills_gradients(learner):
    terms = learner.training_step(TARGET, SUPPORT)
    assert {"target", "support"} <= set(terms)
    for value in terms.values():
        assert value.shape == ()
        assert value.isfinite()
        assert not value.requires_grad
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())


def test_gradients_go_through_the_backward_it_is_given(learner):
    learner.training_step(TARGET, SUPPORT)
    plain = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()
    learner.training_step(TARGET, SUPPORT, backward=lambda loss: (2 * loss).backward())
    for name, parameter in learner.named_parameters():
        assert (parameter.grad is not None) == (name in plain)
        if name in plain:
            torch.testing.assert_close(parameter.grad, 2 * plain[name])


def test_its_losses_fall(learner):
    first = learner.training_step(TARGET, SUPPORT)
    last = take_steps(learner, 60)
    assert last["target"] < first["target"]
    assert last["support"] < first["support"]


def test_it_answers_its_questions_with_logits_in_eval_mode(learner):
    take_steps(learner)
    for network in networks_of(learner):
        assert not any(module.training for module in network.modules())
        assert network(images()).shape == (6, 4)


def test_asking_changes_nothing_that_training_sees(learner):
    take_steps(learner)
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    answers(learner)
    assert all(torch.equal(t, before[n]) for n, t in learner.state_dict().items())


def test_its_state_is_complete_and_holds_tensors_only(learner):
    take_steps(learner)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    expected = answers(learner)
    file.seek(0)
    take_steps(learner)
    learner.load_state_dict(torch.load(file, weights_only=True))
    for mine, theirs in zip(answers(learner), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_its_groups_hold_every_trained_parameter_once(learner):
    grouped = [id(p) for group in learner.parameter_groups() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in learner.parameters())


def test_a_merged_network_does_not_depend_on_the_precision_of_training(learner):
    take_steps(learner)
    plain = networks_of(learner)[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        merged = networks_of(learner)[2]
    for name, tensor in plain.named_parameters():
        torch.testing.assert_close(dict(merged.named_parameters())[name], tensor)
