"""What every learner must do, whoever wrote it."""

import dataclasses
import io

import pytest
import torch
from tiny import descend, images, labels, small_network, summed_networks

from metasum import MetaSum, settings
from metasum.baselines.registry import LEARNERS
from metasum.config import options_of
from metasum.merging import METHODS
from metasum.merging.endpoints import NetworkMethod
from metasum.networks.build import wrapped
from metasum.networks.heads import head_of
from metasum.run.parts import new_learner
from metasum.run.plan import resolve
from metasum.types import Batch, Dataset, Sides, Split
from metasum.weights.parameters import parameters_of, saved_buffers

TARGET, SUPPORT = Batch(images(seed=1), labels(seed=1)), Batch(images(seed=2), labels(seed=2))
DATASET = Dataset("any", Split(images(), labels()), Split(images(), labels()), 4, "nowhere")
TRAINED = [name for name, learner in LEARNERS.items() if learner.endpoints is None]
"""Those that train something of their own, and do not merge what another one has trained."""


def made(name, *, normalised=True):
    """A learner with its own settings, on tiny networks as its plan wants them: wrapped, and started as it needs."""
    reads = {leaf.name for leaf in options_of(LEARNERS[name].Config)}
    small = {"quiet_on": ("own",), "adamerging_steps": 3}  # other datasets' images are larger than these
    own = {setting: value for setting, value in small.items() if setting in reads}
    plan = resolve(settings(learner=name, steps=100, **own), Sides(DATASET, DATASET))
    preset = LEARNERS[name].preset
    plain = [small_network(seed, norm=normalised and preset.get("norm") != "none") for seed in (0, 1)]
    config = dataclasses.replace(
        plan.network, tangent=preset.get("tangent", False), augmented=preset.get("augmented", False)
    )
    own = None if plan.network.support_init_seed is None else wrapped(plain[1], config)
    keywords = {name: getattr(plan.own, name) for name in ("operator", "scaling", "backend") if hasattr(plan.own, name)}
    return new_learner(plan, MetaSum(wrapped(plain[0], config), support=own, **keywords))


@pytest.fixture(params=LEARNERS)
def learner(request):
    return made(request.param)


@pytest.fixture(params=TRAINED)
def trained_learner(request):
    return made(request.param)


def take_steps(learner, count=3):
    return descend(learner, TARGET, SUPPORT, torch.optim.Adam(learner.parameters(), 1e-2), count)


def networks_of(learner):
    return [
        learner.target_network(),
        learner.support_network(),
        *summed_networks(learner, images(seed=4), images(seed=5)),
    ]


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
    torch.manual_seed(0)  # some draw images
    learner.training_step(TARGET, SUPPORT)
    plain = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()
    torch.manual_seed(0)
    learner.training_step(TARGET, SUPPORT, backward=lambda loss: (2 * loss).backward())
    for name, parameter in learner.named_parameters():
        assert (parameter.grad is not None) == (name in plain)
        if name in plain:
            torch.testing.assert_close(parameter.grad, 2 * plain[name])


def test_its_losses_fall(trained_learner):
    first = trained_learner.training_step(TARGET, SUPPORT)
    last = take_steps(trained_learner, 60)
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


def test_what_processes_average_is_in_its_state_and_is_no_start(learner):
    own = learner.state_dict(keep_vars=True)
    averaged = {id(buffer) for buffer in saved_buffers(learner.modules())}
    assert averaged == {id(tensor) for tensor in own.values()} - {id(p) for p in learner.parameters()}
    starts = {id(buffer) for name, buffer in learner.named_buffers() if name not in own}
    assert not starts & averaged


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


def test_moving_it_moves_all_that_it_needs(learner):
    """To another precision, as to a device: nothing that it keeps stays behind."""
    learner.float()
    batches = [Batch(batch.images.float(), batch.labels) for batch in (TARGET, SUPPORT)]
    learner.training_step(*batches)
    for network in (
        learner.target_network(),
        learner.support_network(),
        *summed_networks(learner, images(seed=4).float(), images(seed=5).float()),
    ):
        assert network(images().float()).dtype == torch.float32


def test_a_merged_network_does_not_depend_on_the_precision_of_training(learner):
    take_steps(learner)
    plain = networks_of(learner)[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        merged = networks_of(learner)[2]
    for name, tensor in plain.named_parameters():
        torch.testing.assert_close(dict(merged.named_parameters())[name], tensor)


def after_two_steps(learner):
    take_steps(learner, 2)
    with torch.no_grad():
        return learner.target_network()(images(seed=3))


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("metasum", {"sum"}),
        ("metasum-symmetric", {"sum", "sum_support"}),
        ("quiet", {"target_quiet", "support_quiet"}),
        ("anchored", {"anchor"}),
        ("slots", {"target_quiet", "support_quiet"}),
        ("blocks", {"target_quiet", "support_quiet"}),
        ("proximity", {"proximity"}),
        ("sharpness-aware", set()),
        ("tangent", set()),
        ("two-head", set()),
        ("multi-input", set()),
        ("meta-networks", set()),
        ("meta-transfer", set()),
    ],
)
def test_it_is_another_way_of_training_than_independent_training(name, terms):
    """By its terms, and by what the target network answers after two steps from the same start."""
    learner = made(name)
    assert set(learner.training_step(TARGET, SUPPORT)) == {"target", "support"} | terms
    if name == "meta-transfer":
        learner.get_buffer("steps").fill_(learner.config.pretraining_steps)  # what is before this is independent
    alone = made("independent", normalised=LEARNERS[name].preset.get("norm") != "none")
    assert not torch.allclose(after_two_steps(made(name)), after_two_steps(alone))


def test_every_learner_that_trains_is_told_apart_above():
    """Those that differ in the start alone are not."""
    cases = next(mark for mark in test_it_is_another_way_of_training_than_independent_training.pytestmark)
    told = {name for name, _ in cases.args[1]}
    assert set(TRAINED) - told == {"independent", "independent-two-inits", "metasum-meta"}


@pytest.mark.parametrize("name", [name for name in LEARNERS if name.endswith("-two-inits")])
def test_with_two_starts_the_networks_differ_from_the_beginning(name):
    first, other = (network(images(seed=3)) for network in (made(name).target_network(), made(name).support_network()))
    assert not torch.allclose(first, other)
    learner = made("independent")
    assert torch.equal(learner.target_network()(images(seed=3)), learner.support_network()(images(seed=3)))


WITHOUT_HEADS = {
    "slots": "channels of its own",
    "blocks": "channels of its own",
    "side-by-side": "another architecture",
    "multi-input": "one head for both datasets",
    "meta-networks": "adds fast weights",
}


def changes_networks(learner):
    """Whether its method puts networks' channels into another order, or into common ones; heads are changed to fit."""
    method = None if learner.method is None else METHODS[learner.method]
    return issubclass(method or object, NetworkMethod) and method.prepared is not NetworkMethod.prepared


def knows_task(learner):
    return learner.method is not None and METHODS[learner.method].knows_task


def test_its_sum_has_each_networks_own_head_or_it_says_why_not(learner):
    reason = learner.against_own_heads()
    assert (reason is not None) == (learner.name in WITHOUT_HEADS)
    if reason is not None:
        assert WITHOUT_HEADS[learner.name] in reason
        return
    take_steps(learner)
    alone = learner.target_network(), learner.support_network()
    head = head_of(alone[0], images())
    together = learner.compose_trunk(Sides([images(seed=4)], [images(seed=5)]), head)
    for name, own in parameters_of(together.target).items():
        if not knows_task(learner):  # each task has weights of its own then
            assert torch.equal(own, parameters_of(together.support)[name]) == (name not in head)
    for network, whose in zip(together, alone, strict=True):
        assert not network.training
        for name in head & set(parameters_of(network)):
            assert network.get_parameter(name) is not whose.get_parameter(name)
            if not changes_networks(learner):
                assert torch.equal(network.get_parameter(name), whose.get_parameter(name))


def test_who_composes_the_sum_anew_and_says_nothing_of_heads_is_not_measured_with_own_ones():
    class Own(LEARNERS["independent"]):
        def compose(self, images, *, operator=None):
            return super().compose(images, operator=operator)

    class Both(Own):
        def compose_trunk(self, images, head, *, operator=None):
            return super().compose_trunk(images, head, operator=operator)

    class Neither(Both):
        pass

    assert Own.against_own_heads() == "makes its sum in a way of its own, head and all"
    assert Both.against_own_heads() is Neither.against_own_heads() is None
