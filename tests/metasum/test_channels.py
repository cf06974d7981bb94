"""Channels can be followed through every way in which layers share axes, and a wrong permutation is seen on images."""

import copy

import pytest
import torch
from torch import nn

from metasum.baselines.weight_matching import WeightMatching
from metasum.errors import ArchitectureError, UsageError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.networks.channels import Axis, ChannelGroup, channel_groups
from metasum.networks.permuting import permute_network
from metasum.networks.same_function import same_function
from metasum.weights.parameters import parameters_of

IMAGES = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    """Some layers, and how they are put together."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.add_module("last", nn.Linear(8, 3))
        self.through = forward

    def forward(self, x):
        return self.last(self.through(self, x).mean((2, 3)))


def conv(inputs=8, outputs=8, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def called_twice():
    return Net(lambda net, x: net.twice(net.twice(net.first(x).relu()).relu()).relu(), first=conv(2), twice=conv())


def shared_batch_norm():
    def forward(net, x):
        return net.norm(net.second(net.norm(net.first(x)).relu())).relu()

    return Net(forward, first=conv(2), second=conv(), norm=nn.BatchNorm2d(8))


def tied_weights():
    def forward(net, x):
        return net.third(net.second(net.first(x).relu()).relu()).relu()

    network = Net(forward, first=conv(2), second=conv(), third=conv())
    network.third.weight = network.second.weight
    return network


def linear_on_an_image():
    return Net(lambda net, x: net.rows(net.first(x).relu()).relu(), first=conv(2), rows=nn.Linear(8, 8))


def linear_on_each_pixel():
    def forward(net, x):
        return net.pixels(net.first(x).permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2)

    return Net(forward, first=conv(2), pixels=nn.Linear(8, 8))


def grouped():
    return Net(lambda net, x: net.second(net.first(x).relu()).relu(), first=conv(2), second=conv(groups=2))


def depthwise():
    return Net(lambda net, x: net.second(net.first(x).relu()).relu(), first=conv(2, 4), second=conv(4, 8, groups=4))


def group_norm():
    return Net(lambda net, x: net.norm(net.first(x)).relu(), first=conv(2), norm=nn.GroupNorm(2, 8))


def concatenated():
    def forward(net, x):
        first = net.first(x).relu()
        second = torch.cat([first, net.second(first).relu()], dim=1)
        return net.third(torch.cat([second, second[:, :2]], dim=1)).relu()

    return Net(forward, first=conv(2, 4), second=conv(4, 3), third=conv(9, 8))


def shuffled():
    def forward(net, x):
        first, second = net.first(x).relu().chunk(2, dim=1)
        both = torch.stack([first, net.second(second)], dim=2).flatten(1, 2)
        return net.third(both).relu()

    return Net(forward, first=conv(2), second=conv(4, 4), third=conv())


def scaled_by_a_parameter():
    network = Net(lambda net, x: net.first(x).relu() * net.scale, first=conv(2))
    network.scale = nn.Parameter(torch.rand(8, 1, 1))
    return network


KINDS = [
    called_twice, shared_batch_norm, tied_weights, linear_on_an_image, linear_on_each_pixel, grouped, depthwise,
    group_norm, concatenated, shuffled, scaled_by_a_parameter,
]  # fmt: skip


def made(kind, seed=0):
    """In float64, with norms of their own and no two channels alike."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind().double().train()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                    module.weight.uniform_(0.5, 2)
                    module.bias.normal_()
            network(IMAGES * 2 + 1)
    return network.eval()


def in_another_order(network, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    moved = copy.deepcopy(network)
    permute_network(moved, groups, [torch.randperm(group.size, generator=generator) for group in groups])
    return moved


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_a_group_computes_the_same(kind):
    network = made(kind)
    groups = channel_groups(network, IMAGES)
    assert any(group.size > 1 for group in groups)
    for seed in range(3):
        moved = in_another_order(network, groups, seed)
        assert same_function(network, moved, IMAGES) < 1e-12
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), moved.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_weight_matching_undoes_a_permutation(kind):
    network = made(kind)
    groups = channel_groups(network, IMAGES)
    swaps = [torch.arange(group.size).roll(1) if i == 0 else torch.arange(group.size) for i, group in enumerate(groups)]
    moved = copy.deepcopy(network)
    permute_network(moved, groups, swaps)
    ends = [Endpoint(each, [IMAGES]) for each in (network, moved)]
    merged = merge(WeightMatching(seed=0), ends, ends[0].parameters)
    for name, tensor in parameters_of(network).items():
        torch.testing.assert_close(merged[name], tensor.detach())


def test_axes_that_share_channels_are_one_group():
    (group,) = channel_groups(made(tied_weights), IMAGES)
    assert {Axis(f"{name}.weight", dimension) for name in ("second", "third") for dimension in (0, 1)} <= set(
        group.positions
    )


def test_a_wrong_permutation_is_refused_by_the_layer(monkeypatch):
    """As long as the rules are right no user sees this; so the group is wrong on purpose: without the norm."""
    network, other = made(shared_batch_norm, 0), made(shared_batch_norm, 1)
    wrong = [
        ChannelGroup({axis: positions for axis, positions in group.positions.items() if "norm" not in axis.name})
        for group in channel_groups(network, IMAGES)
    ]
    with pytest.raises(ArchitectureError, match=r"'norm' \(BatchNorm2d\)"):
        same_function(network, in_another_order(network, wrong), IMAGES)
    monkeypatch.setattr("metasum.networks.channels.channel_groups", lambda *_, **__: wrong)
    for images in ([IMAGES], []):
        ends = [Endpoint(each, images) for each in (network, other)]
        with pytest.raises(ArchitectureError, match="compute different functions"):
            merge(WeightMatching(seed=0), ends, ends[0].parameters)


def test_the_difference_is_told_and_no_image_shows_nothing():
    network = made(group_norm)
    near = copy.deepcopy(network)
    with torch.no_grad():
        near.last.bias[1] += 1e-6
    assert same_function(network, near, IMAGES) == pytest.approx(1e-6)
    with pytest.raises(UsageError, match="at least one image"):
        same_function(network, near, IMAGES[:0])
    with torch.no_grad():
        near.last.bias[1] = torch.nan
    with pytest.raises(ArchitectureError, match="'last'"):
        same_function(network, near, IMAGES)
