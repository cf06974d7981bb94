"""RegMean++: each layer is the least-squares answer on what the merged earlier layers give it."""

import copy

import pytest
import torch
from tiny import images, small_network
from torch import nn
from users import Trunk, loader, seeded

import metasum
from metasum.baselines.regmean import RegMean
from metasum.baselines.regmean_plus_plus import RegMeanPlusPlus
from metasum.errors import UsageError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge


def linear(seed, depth):
    torch.manual_seed(seed)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(4, 4), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1]).double().eval()


def ends(depth):
    x = [torch.randn(40, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (8, 9)]
    return [Endpoint(linear(seed, depth), [batch[:25], batch[25:]]) for seed, batch in zip((1, 2), x, strict=True)]


def least_squares(rows, weights):
    answers = [own @ weight.T for own, weight in zip(rows, weights, strict=True)]
    return torch.linalg.lstsq(torch.cat(rows), torch.cat(answers)).solution.T


def test_one_layer_is_regmean():
    pair = ends(1)
    ours, theirs = (merge(kind(), pair, {}) for kind in (RegMeanPlusPlus, RegMean))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor)


def test_the_second_layer_sees_what_the_merged_first_one_gives():
    pair = ends(2)
    merged = merge(RegMeanPlusPlus(shrinkage=1.0), pair, {})
    parts = [end.parameters for end in pair]
    rows = [torch.cat(end.images).flatten(1) for end in pair]
    first = least_squares(rows, [own["1.weight"] for own in parts])
    bias = (parts[0]["1.bias"] + parts[1]["1.bias"]) / 2
    hidden = [(own @ first.T + bias).relu() for own in rows]
    torch.testing.assert_close(merged["1.weight"], first)
    torch.testing.assert_close(merged["3.weight"], least_squares(hidden, [own["3.weight"] for own in parts]))
    plain = merge(RegMean(shrinkage=1.0), pair, {})
    torch.testing.assert_close(plain["1.weight"], first)
    assert (plain["3.weight"] - merged["3.weight"]).abs().max() > 0.01


def test_the_same_network_twice_is_that_network_whatever_its_batch_norms_did():
    network = small_network(1).eval()
    network[1].running_mean.fill_(3.0)
    pair = [Endpoint(network, [images(seed=1)]), Endpoint(network, [images(seed=2)])]
    before = copy.deepcopy(network.state_dict())
    for name, tensor in merge(RegMeanPlusPlus(), pair, {}).items():
        torch.testing.assert_close(tensor, before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_batch_norms_have_the_batchs_statistics():
    """So what the networks' own are does not matter: nobody's are right for what is merged so far."""
    nets = [small_network(seed).eval() for seed in (1, 2)]
    one = merge(RegMeanPlusPlus(), [Endpoint(net, [images(seed=s)]) for s, net in enumerate(nets)], {})
    for net in nets:
        net[1].running_mean.fill_(5.0)
    other = merge(RegMeanPlusPlus(), [Endpoint(net, [images(seed=s)]) for s, net in enumerate(nets)], {})
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_own_heads_stay_and_the_rest_does_not_depend_on_them():
    pair, data = [seeded(Trunk, 1, 3), seeded(Trunk, 2, 7)], [loader(1, of=3), loader(2, of=7)]
    found = metasum.merge(pair, "regmean-plus-plus", images=data, keep="head.*")
    assert torch.equal(found.for_task(1).head.weight, pair[1].head.weight)
    with torch.no_grad():
        pair[0].head.weight.mul_(2)
    again = metasum.merge(pair, "regmean-plus-plus", images=data, keep="head.*")
    assert torch.equal(found.for_task(0).trunk[0].weight, again.for_task(0).trunk[0].weight)


def test_a_last_batch_of_one_image_is_left_out_and_only_such_are_told():
    nets = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval() for _ in range(2)]
    x = images(5)[:, :, :2, :2]
    assert merge(RegMeanPlusPlus(), [Endpoint(net, [x[:4], x[4:]]) for net in nets], {})
    with pytest.raises(UsageError, match="more than 1 value per channel"):
        merge(RegMeanPlusPlus(), [Endpoint(net, [x[:1], x[1:2]]) for net in nets], {})
