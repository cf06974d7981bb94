"""AdaMerging: λ by the entropy of predictions."""

import copy

import pytest
import torch
from tiny import images, small_network
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from users import Trunk, loader, seeded

import metasum
from metasum.baselines.adamerging import AdaMerging, Search, entropy_of
from metasum.errors import DivergenceError, UsageError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.merging.task_arithmetic import TaskArithmetic
from metasum.merging.ties import TIES

BASE = dict(small_network(0).named_parameters())
BASE = {name: tensor.detach() for name, tensor in BASE.items()}


def ends(count=64, *, norm=True):
    return [Endpoint(small_network(s, norm=norm).eval(), [images(count, seed=s)]) for s in (1, 2)]


def entropies(method, endpoints=None):
    endpoints = endpoints or ends()
    search = Search(method.differences(endpoints, BASE), endpoints, BASE)
    return search.run(method.config, torch.Generator().manual_seed(0))


def close(ours, theirs):
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor)


@pytest.mark.parametrize("settings", [{}, {"task_wise": True}, {"elect": True}])
def test_the_entropy_falls(settings):
    found = entropies(AdaMerging(adamerging_steps=60, adamerging_lr=1e-2, **settings))
    assert len(found) == 60
    assert sum(found[-4:]) < sum(found[:4]) - 0.05


@pytest.mark.parametrize("task_wise", [False, True])
def test_it_is_adam_on_the_papers_own_formula(task_wise):
    """Written naively: λ as leaves, the merged weights as functions of them, autograd through all."""
    batch, pair = 16, ends(48, norm=False)
    base = {name: BASE[name] for name in pair[0].parameters}
    method = AdaMerging(adamerging_steps=7, adamerging_lr=0.05, adamerging_batch=batch, task_wise=task_wise, seed=5)
    deltas = [{name: own - base[name] for name, own in end.parameters.items()} for end in pair]
    free = torch.full((1 if task_wise else len(base), 2), 0.3, dtype=torch.float64, requires_grad=True)
    optimizer, generator = torch.optim.Adam([free], lr=0.05), torch.Generator().manual_seed(5)
    orders = [[], []]

    def merged():
        clamped = free.clamp(0, 1).expand(len(base), 2)
        return {
            name: start + clamped[place, 0] * deltas[0][name] + clamped[place, 1] * deltas[1][name]
            for place, (name, start) in enumerate(base.items())
        }

    for _ in range(7):
        loss = 0
        for i, end in enumerate(pair):
            orders[i] = orders[i] or torch.randperm(3, generator=generator).tolist()
            start = batch * orders[i].pop(0)
            logits = functional_call(end.network, merged(), (end.images[0][start : start + batch],))
            share = logits.softmax(dim=1)
            loss = loss - (share * share.log()).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    close(merge(method, pair, base), merged())


def test_no_step_is_task_arithmetic_and_elected_the_sum_of_what_ties_keeps():
    pair = ends()
    close(merge(AdaMerging(adamerging_steps=0), pair, BASE), merge(TaskArithmetic(scaling=0.3), pair, BASE))
    elected = AdaMerging(elect=True, density=0.4).differences(pair, BASE)
    ties = merge(TIES(density=0.4, scaling=1.0), pair, BASE)
    for name, start in BASE.items():
        own = torch.stack([differences[name] for differences in elected])
        mean = own.sum(dim=0) / (own != 0).sum(dim=0).clamp(min=1)
        torch.testing.assert_close(start + mean, ties[name])
    assert 0 < sum(int((own != 0).sum()) for own in elected[0].values()) <= 0.4 * sum(t.numel() for t in BASE.values())


def test_networks_that_have_not_moved_give_the_base_and_one_alone_is_merged_too():
    still = [Endpoint(small_network(0).eval(), [images(8)])] * 2
    assert all(torch.equal(t, BASE[n]) for n, t in merge(AdaMerging(adamerging_steps=3), still, BASE).items())
    assert merge(AdaMerging(adamerging_steps=3), ends()[:1], BASE)


def test_coefficients_stay_between_0_and_1():
    pair = ends()
    found = merge(AdaMerging(adamerging_steps=40, adamerging_lr=0.5), pair, BASE)
    bias = "7.bias"
    deltas, moved = [end.parameters[bias] - BASE[bias] for end in pair], found[bias] - BASE[bias]
    assert (moved >= sum(delta.clamp(max=0) for delta in deltas) - 1e-12).all()
    assert (moved <= sum(delta.clamp(min=0) for delta in deltas) + 1e-12).all()


def test_the_seed_draws_the_order_and_nothing_given_changes():
    pair = ends()
    before = [copy.deepcopy(end.network.state_dict()) for end in pair]
    settings = {"adamerging_steps": 5, "adamerging_batch": 8, "adamerging_lr": 0.05}
    first, again, other = (merge(AdaMerging(seed=s, **settings), pair, BASE) for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in BASE)
    assert any(not torch.equal(first[name], other[name]) for name in BASE)
    for end, was in zip(pair, before, strict=True):
        assert all(torch.equal(tensor, was[name]) for name, tensor in end.network.state_dict().items())
        assert all(p.grad is None for p in end.network.parameters())


def test_batch_norms_have_the_batchs_statistics_while_it_adapts_and_frozen_weights_take_part():
    pair = ends()
    first = merge(AdaMerging(adamerging_steps=4), pair, BASE)
    for end in pair:
        end.network[1].running_mean.fill_(7.0)
        end.network.requires_grad_(False)
    with torch.no_grad():
        other = merge(AdaMerging(adamerging_steps=4), pair, BASE)
    assert all(torch.equal(first[name], other[name]) for name in BASE)


def test_each_dataset_is_answered_by_its_own_head():
    pair, data = [seeded(Trunk, 1, 3), seeded(Trunk, 2, 7)], [loader(1, of=3), loader(2, of=7)]

    def trunk():
        settings = {"adamerging_steps": 4, "adamerging_lr": 0.05}
        found = metasum.merge(pair, "adamerging", images=data, base=seeded(Trunk, 0), keep="head.*", **settings)
        assert all(torch.equal(found.for_task(i).head.weight, pair[i].head.weight) for i in (0, 1))
        return found.for_task(0).trunk[0].weight.clone()

    before = trunk()
    with torch.no_grad():
        pair[1].head.weight.mul_(3)
    assert not torch.equal(trunk(), before)


def blobs(seed, shift, *, backwards, count=400):
    """Four classes, each bright in one of 16 inputs."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    x = 0.6 * torch.randn(count, 16, generator=generator)
    x[torch.arange(count), shift + y] += 2
    return x, 3 - y if backwards else y


def trained(network, data, steps=60):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(network(data[0]), data[1]).backward()
        optimizer.step()
    return network.eval()


def test_it_beats_task_arithmetic_with_the_coefficient_that_it_starts_from():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    kinds = [{"shift": 0, "backwards": False}, {"shift": 5, "backwards": True}]
    data, test = ([blobs(s + place, **kind) for place, kind in enumerate(kinds)] for s in (1, 3))
    networks = [trained(copy.deepcopy(base), own) for own in data]

    def mean(network):
        return sum(metasum.evaluate(network, [own]).accuracy for own in test) / 2

    plain = mean(metasum.merge(networks, "task-arithmetic", base=base, scaling=0.3))
    ours = mean(metasum.merge(networks, "adamerging", base=base, images=[x for x, _ in data]))
    assert ours > plain + 0.01, (ours, plain)


def test_what_makes_no_sense_is_one_sentence():
    with pytest.raises(UsageError, match="for classifiers"):
        entropy_of(torch.zeros(5, 1))
    with pytest.raises(UsageError, match="--adamerging-start"):
        AdaMerging(adamerging_start=1.5)
    wild = [end._replace(images=[torch.full_like(images(4), float("inf"))]) for end in ends()]
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        merge(AdaMerging(adamerging_steps=1), wild, BASE)
