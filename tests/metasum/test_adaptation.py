"""MetaSum's clones: gradients through both adaptations, against learn2learn, higher and finite differences."""

import pytest
import torch
from tiny import images, labels, small_network
from torch.nn.functional import cross_entropy

from metasum import MetaSum, third_party
from metasum.errors import UsageError

X_T, X_S, Y_T, Y_S = images(seed=1), images(seed=2), labels(seed=1), labels(seed=2)
STEPS = 3


def adapted(networks, *, steps=STEPS, **keywords):
    clones = networks.clone(**keywords)
    for _ in range(steps):
        clones.adapt(cross_entropy(clones.target(X_T), Y_T) + cross_entropy(clones.support(X_S), Y_S))
    return clones


def episode_loss(clones):
    own = cross_entropy(clones.target(X_S), Y_T) + cross_entropy(clones.support(X_T), Y_S)
    return own + cross_entropy(clones.summed(X_T), Y_T)


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()))


def learn2learn_loss(algorithm, model):
    """The same episode in learn2learn's own words; the sum runs through torch.func."""
    target, support = algorithm.clone(), algorithm.clone()
    for _ in range(STEPS):
        target.adapt(cross_entropy(target(X_T), Y_T))
        support.adapt(cross_entropy(support(X_S), Y_S))
    own = cross_entropy(target(X_S), Y_T) + cross_entropy(support(X_T), Y_S)
    summed = {n: a + b for (n, a), b in zip(target.module.named_parameters(), support.module.parameters(), strict=True)}
    return own + cross_entropy(torch.func.functional_call(model, summed, (X_T,)), Y_T)


@pytest.mark.parametrize("backend", ["learn2learn", "torch", "higher"])
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradients_are_those_of_learn2learns_maml(backend, first_order):
    networks = MetaSum(small_network(), shared=True, lr=0.2, first_order=first_order, backend=backend)
    model = small_network()
    maml = third_party.learn2learn().algorithms.MAML(model, lr=0.2, first_order=first_order)
    mine = gradients(episode_loss(adapted(networks)), networks)
    theirs = gradients(learn2learn_loss(maml, model), model)
    for own, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)


def test_learnt_rates_get_the_gradients_of_learn2learns_meta_sgd():
    networks = MetaSum(small_network(), shared=True, lr=0.2, inner_optimizer="meta-sgd")
    model = small_network()
    meta_sgd = third_party.learn2learn().algorithms.MetaSGD(model, lr=0.2)
    meta_sgd.lrs = torch.nn.ParameterList([torch.nn.Parameter(lr.double()) for lr in meta_sgd.lrs])
    mine = torch.autograd.grad(episode_loss(adapted(networks)), list(networks.inner_rule.parameters()))
    theirs = torch.autograd.grad(learn2learn_loss(meta_sgd, model), list(meta_sgd.lrs))
    assert sum(float(gradient.abs().sum()) for gradient in mine) > 0
    for own, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)


def test_meta_gradients_through_adam_are_those_of_highers_inner_loop():
    networks = MetaSum(smooth_network(), shared=True, lr=0.05, inner_optimizer="adam")
    model, higher = smooth_network(), third_party.higher()
    with higher.innerloop_ctx(model, torch.optim.Adam(model.parameters(), 0.05), copy_initial_weights=False) as (f, o):
        for _ in range(STEPS):
            o.step(cross_entropy(f(X_T), Y_T))
        theirs = gradients(cross_entropy(f(X_S), Y_T), model)
    clones = adapted(networks)
    mine = gradients(cross_entropy(clones.target(X_S), Y_T), networks)
    for own, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)


def smooth_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)
    ).double()


@pytest.mark.parametrize("rule", ["sgd", "meta-sgd", "adam"])
def test_the_sums_gradient_agrees_with_finite_differences(rule):
    networks = MetaSum(smooth_network(), shared=True, lr=0.05, inner_optimizer=rule, backend="torch")
    weight = networks.target[1].bias

    def loss(bias):
        with torch.no_grad():
            weight.copy_(bias)
        return float(cross_entropy(adapted(networks).summed(X_T), Y_T).detach())

    start = weight.detach().clone()
    (gradient,) = torch.autograd.grad(cross_entropy(adapted(networks).summed(X_T), Y_T), [weight])
    for index in range(len(start)):
        nudge = torch.zeros_like(start)
        nudge[index] = 1e-5
        slope = (loss(start + nudge) - loss(start - nudge)) / 2e-5
        assert slope == pytest.approx(float(gradient[index]), rel=1e-4, abs=1e-7)


def test_networks_adapt_apart():
    both = adapted(MetaSum(small_network(), shared=True))
    networks = MetaSum(small_network(), shared=True)
    alone = networks.clone()
    for _ in range(STEPS):
        alone.adapt(cross_entropy(alone.target(X_T), Y_T))
    for name, tensor in alone.target.named_parameters():
        torch.testing.assert_close(tensor, dict(both.target.named_parameters())[name])
    assert all(torch.equal(t, dict(networks.target.named_parameters())[n]) for n, t in alone.support.named_parameters())


def test_clones_leave_weights_and_statistics_of_the_module_alone():
    networks = MetaSum(small_network(), shared=True)
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items() if "statistics" not in name}
    episode_loss(adapted(networks)).backward()
    assert all(torch.equal(networks.state_dict()[name], tensor) for name, tensor in before.items())


def test_two_initialisations_are_cloned_each_from_its_own():
    networks = MetaSum(small_network(0), support=small_network(1))
    gradient = torch.autograd.grad(
        cross_entropy(adapted(networks).target(X_S), Y_T), list(networks.support.parameters()), allow_unused=True
    )
    assert all(g is None for g in gradient)
    with pytest.raises(UsageError, match="shared=True"):
        networks.clone(3)


def test_more_partners_are_added():
    networks = MetaSum(small_network(), shared=True)
    clones = networks.clone(3)
    x = images(seed=7)
    total = {name: 3 * tensor for name, tensor in networks.target.named_parameters()}
    torch.testing.assert_close(clones.summed(x), torch.func.functional_call(networks.target, total, (x,)))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"shared": True, "support": small_network(1)}, "shared"),
        ({"shared": True, "inner_optimizer": "agd"}, "agd"),
    ],
)
def test_what_does_not_go_together_is_refused(keywords, words):
    with pytest.raises(UsageError, match=words):
        MetaSum(small_network(), **keywords)


def test_one_clone_makes_no_sum():
    with pytest.raises(UsageError, match="2 to 1024, not 1"):
        MetaSum(small_network(), shared=True).clone(1)


def test_it_drops_into_an_ordinary_learn2learn_loop():
    """An initialisation from which two tasks can be learnt apart in three steps, and added."""
    networks = MetaSum(small_network(), shared=True, lr=0.3)
    optimizer = torch.optim.Adam(networks.parameters(), 0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = episode_loss(adapted(networks))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def learn2learns_loop(meta, steps=4, clip=None):
    """Meta-training as learn2learn's README writes it; `meta` is a MAML, or a MetaSum whose one clone is taken."""
    optimizer = torch.optim.SGD(meta.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        for task in range(2):
            clone = meta.clone()
            clone = getattr(clone, "target", clone)
            clone.train()
            x, y = images(seed=10 * step + task), labels(seed=10 * step + task)
            clone.adapt(cross_entropy(clone(x), y))
            clone.adapt(cross_entropy(clone(x + 0.1), y), first_order=step == 1)
            if clip is not None:  # the clone's own gradients, which it keeps when asked to
                for parameter in clone.parameters():
                    parameter.retain_grad()
            clone.eval()
            cross_entropy(clone(images(seed=99 + task)), y).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(clone.parameters(), clip)
                assert sum(float(own.grad.square().sum()) for own in clone.parameters()) <= clip**2 + 1e-6
        torch.nn.utils.clip_grad_norm_(meta.parameters(), 1.0)
        optimizer.step()
    return list(meta.parameters())


@pytest.mark.parametrize("first_order", [False, True])
def test_a_learn2learn_loop_ends_where_its_maml_does(first_order):
    """Batch norm in eval mode apart: MAML's clones share one network's statistics, these have their own."""
    mine = learn2learns_loop(MetaSum(small_network(norm=False), shared=True, lr=0.2, first_order=first_order), clip=0.5)
    maml = third_party.learn2learn().algorithms.MAML(small_network(norm=False), lr=0.2, first_order=first_order)
    for own, other in zip(mine, learn2learns_loop(maml), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-10)


def test_clones_when_called_are_their_sum_and_adapt_to_its_loss():
    networks = MetaSum(small_network(), shared=True, lr=0.2)
    clones = networks.clone()
    before = [own.detach().clone() for own in clones.parameters()]
    clones.adapt(cross_entropy(clones(X_T), Y_T))
    assert len(before) == 2 * len(list(networks.target.parameters()))
    assert all(
        not torch.equal(now, then) for now, then in zip(clones.parameters(), before, strict=True) if now.ndim > 1
    )
    torch.testing.assert_close(clones(X_T), clones.summed(X_T))
    target, support = clones
    assert (target, support) == (clones.target, clones.support)
    assert networks(X_T).shape == (6, 4)


def test_a_clones_mode_is_its_own():
    networks = MetaSum(small_network(), shared=True).train()
    clones = networks.clone()
    target = clones.target
    trained = target(X_T)
    networks.target.eval()
    plain = networks.target(X_T)
    networks.target.train()
    target = networks.clone().target.eval()
    torch.testing.assert_close(target(X_T), plain)
    assert not torch.allclose(plain, trained)
    assert networks.target.training
    assert not target.training
    statistics = {name: buffer.clone() for name, buffer in networks.sum_statistics().items()}
    clones.eval().summed(X_T)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in networks.sum_statistics().items())
    clones.train().summed(X_T)
    assert not torch.equal(networks.sum_statistics()["1.running_mean"], statistics["1.running_mean"])


def with_unused():
    network = small_network()
    network.register_parameter("unused", torch.nn.Parameter(torch.ones(2).double()))
    return network


def with_frozen():
    network = small_network()
    network[0].weight.requires_grad_(False)
    return network


@pytest.mark.parametrize("inner", ["sgd", "meta-sgd", "adam"])
@pytest.mark.parametrize(
    ("make", "allow", "words"),
    [
        (with_unused, {"allow_unused": True}, "does not depend on 'unused'; allow_unused=True"),
        (with_unused, {"allow_nograd": True}, "does not depend on 'unused'"),
        (with_frozen, {"allow_nograd": True}, "'0.weight' requires no gradient; allow_nograd=True"),
    ],
)
def test_weights_that_stay_behind_do_so_with_leave_only(make, allow, words, inner):
    networks = MetaSum(make(), shared=True, inner_optimizer=inner)
    clone = networks.clone().target
    with pytest.raises(UsageError, match=words):
        clone.adapt(cross_entropy(clone(X_T), Y_T))
    for clones in (networks.clone(**allow), MetaSum(make(), shared=True, inner_optimizer=inner, **allow).clone()):
        before = dict(clones.target.named_parameters())
        clones.target.adapt(cross_entropy(clones.target(X_T), Y_T))
        moved = {name for name, own in clones.target.named_parameters() if not torch.equal(own, before[name])}
        assert moved.isdisjoint({"unused"} if make is with_unused else {"0.weight"})
        assert {"7.weight", "5.bias"} <= moved
    clone.adapt(cross_entropy(clone(X_T), Y_T), **allow)


@pytest.mark.parametrize("inner", ["sgd", "meta-sgd", "adam"])
def test_a_loss_that_does_not_reach_the_clones_is_refused(inner):
    networks = MetaSum(small_network(), shared=True, inner_optimizer=inner)
    clones, others = networks.clone(), networks.clone()
    losses = {
        "of other clones": cross_entropy(others.target(X_T), Y_T),
        "of the module itself": cross_entropy(networks.target(X_T), Y_T),
        "without a gradient": cross_entropy(clones.target(X_T), Y_T).detach(),
    }
    for loss in losses.values():
        for adapting in (clones, clones.target):
            with pytest.raises(UsageError, match="depends on no weight of the clones"):
                adapting.adapt(loss, allow_unused=True)
    with pytest.raises(UsageError, match=r"one number, not \[6\]"):
        clones.adapt(cross_entropy(clones.target(X_T), Y_T, reduction="none"))
    old = cross_entropy(clones.support(X_T), Y_T)
    clones.support.adapt(cross_entropy(clones.support(X_T), Y_T))
    with pytest.raises(UsageError, match="after their last step"):
        clones.support.adapt(old)
