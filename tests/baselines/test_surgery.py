"""Representation surgery: features of the average made like each network's own."""

import pytest
import torch
from torch import nn
from users import AnswersAnObject, Trunk, inputs, loader, same, seeded, snapshot

import metasum
from metasum.errors import ArchitectureError, UsageError

DATA = [loader(1), loader(2)]


def pair(*heads):
    return [seeded(Trunk, seed, *own) for seed, own in zip((1, 2), heads or ((), ()), strict=True)]


def distance(found, networks, place):
    """Mean |difference| of what the head reads from what it read in the network alone, on its own data."""
    x = torch.cat([batch[0] for batch in DATA[place]])
    own = networks[place].eval()
    with torch.no_grad():
        theirs, task = own.trunk(x), found.for_task(place)
        return float((task.head[0](task.trunk(x)) - theirs).abs().mean())


def test_features_come_nearer_to_each_networks_own():
    networks = pair()
    plain, mended = (metasum.merge(networks, "surgery", images=DATA, surgery_steps=steps) for steps in (0, 300))
    for place in (0, 1):
        assert distance(mended, networks, place) < 0.7 * distance(plain, networks, place)


def test_without_a_step_it_is_the_average_below_each_networks_head():
    networks = pair((3,), (7,))
    found = metasum.merge(networks, "surgery", images=DATA, surgery_steps=0, keep="head.*")
    merged = metasum.merge(networks, keep="head.*")
    for place in (0, 1):
        expected = metasum.recalibrate(merged.for_task(place), DATA[place])
        torch.testing.assert_close(found.for_task(place)(inputs(5)), expected(inputs(5)))


def test_one_network_is_given_back():
    (network, _) = pair()
    metasum.recalibrate(network, DATA[0])
    found = metasum.merge([network], "surgery", images=DATA[:1], surgery_steps=20)
    torch.testing.assert_close(found.for_task(0)(inputs(5)), network(inputs(5)), atol=0.05, rtol=0.05)


def test_the_seed_says_what_is_drawn_and_nothing_given_changes():
    networks = pair()
    before = snapshot(*networks)
    first, again, other = (
        metasum.merge(networks, "surgery", images=DATA, surgery_steps=5, seed=s).state_dict() for s in (1, 1, 2)
    )
    assert same(snapshot(*networks), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert not any(module._forward_pre_hooks for net in networks for module in net.modules())


def test_networks_that_are_called_in_another_way():
    networks = [seeded(AnswersAnObject, seed) for seed in (1, 2)]
    data = [[("id", inputs(seed))] for seed in (1, 2)]
    found = metasum.merge(
        networks, "surgery", images=data, forward=lambda net, batch: net(batch[1]).logits, surgery_steps=3
    )
    assert found(inputs(), task=1).logits.shape[0] == 20


def test_a_head_that_is_no_linear_layer_is_named():
    networks = [nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 6)) for _ in range(2)]
    with pytest.raises(UsageError, match="head '2' is none"):
        metasum.merge(networks, "surgery", images=[torch.randn(4, 1, 8, 8)] * 2)
    with pytest.raises(ArchitectureError, match="nothing but a head"):
        metasum.merge([nn.Linear(6, 3), nn.Linear(6, 3)], "surgery", images=[inputs().float()] * 2)
    networks = [nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3), nn.LogSoftmax(dim=1)) for _ in range(2)]
    with pytest.raises(ArchitectureError, match="surgery: it cannot be told which layer"):
        metasum.merge(networks, "surgery", images=[inputs().float()] * 2)
