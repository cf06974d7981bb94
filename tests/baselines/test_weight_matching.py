"""Weight matching: permuting changes nothing, matching finds the way back, and it beats the plain average."""

import copy

import pytest
import torch
from tiny import small_network
from torch import nn

from metasum.baselines.weight_matching import WeightMatching, match
from metasum.config.sections import NetworkConfig
from metasum.errors import ArchitectureError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.networks.build import build_network
from metasum.networks.channels import Axis, channel_groups
from metasum.networks.permuting import permute_network, permuted
from metasum.weights.parameters import parameters_of


def network_of(kind, seed=0, **changes):
    settings = {"width": 0.25 if kind == "resnet" else 0.05, "num_classes": 4, "norm": "batch", **changes}
    return build_network(NetworkConfig(network=kind, **settings), in_channels=1, seed=seed)


def used(network):
    """With statistics of its own, no two channels alike."""
    network.train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
        network(torch.randn(8, 1, 32, 32) * 2 + 1)
    return network.eval()


def random_orders(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(group.size, generator=generator) for group in groups]


@pytest.mark.parametrize("kind", ["vgg16", "resnet"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_permuted_network_computes_the_same_function(kind, norm):
    network = used(network_of(kind, norm=norm, **({"width": 0.5} if norm == "group" else {})))
    x = torch.randn(3, 1, 32, 32)
    before = network(x).detach()
    groups = channel_groups(network)
    moved = copy.deepcopy(network)
    permute_network(moved, groups, random_orders(groups))
    torch.testing.assert_close(moved(x), before, rtol=0, atol=1e-5)
    assert not torch.equal(next(moved.parameters()), next(network.parameters()))


def test_the_groups_of_the_tiny_network():
    conv, hidden = (group.positions for group in channel_groups(small_network()))
    assert set(conv) == {
        *(Axis(name, 0) for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")),
        Axis("5.weight", 1),
    }
    assert set(hidden) == {Axis("5.weight", 0), Axis("5.bias", 0), Axis("7.weight", 1)}


def test_the_flatten_moves_in_blocks():
    network = small_network()
    groups = channel_groups(network)
    order = torch.tensor([2, 0, 1])
    moved = permuted(parameters_of(network), groups, [order, torch.arange(5)])
    blocks = network[5].weight.view(5, 3, 16)
    assert torch.equal(moved["5.weight"], blocks[:, order].reshape(5, 48))


@pytest.mark.parametrize("kind", ["vgg16", "resnet"])
def test_matching_undoes_a_permutation(kind):
    network = used(network_of(kind))
    x = torch.randn(3, 1, 32, 32)
    groups = channel_groups(network)
    moved = copy.deepcopy(network)
    permute_network(moved, groups, random_orders(groups))
    ends = [Endpoint(network, [x]), Endpoint(moved, [x])]
    merged = merge(WeightMatching(seed=0), ends, ends[0].parameters)
    for name, tensor in parameters_of(network).items():
        torch.testing.assert_close(merged[name], tensor.detach())


class Tokens(nn.Module):
    """Two transformer layers on the pixels of an image."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 12, 8, stride=8), nn.Linear(12, 4)
        self.layers = nn.Sequential(*[nn.TransformerEncoderLayer(12, 3, 20, batch_first=True) for _ in range(2)])

    def forward(self, x):
        return self.last(self.layers(self.first(x).flatten(2).transpose(1, 2)).mean(1))


class Parts(nn.Module):
    """A grouped convolution of three parts between others."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 18, 3, groups=3), nn.ReLU(), nn.Conv2d(18, 4, 3)
        )

    def forward(self, x):
        return self.layers(x).mean((2, 3))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [Tokens, Parts])
def test_matching_undoes_an_order_of_blocks_and_of_what_is_in_them(kind, seed):
    torch.manual_seed(seed)
    network, x = kind().eval(), torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    groups = channel_groups(network, x)
    assert sum(group.of_blocks for group in groups) == 2
    moved = copy.deepcopy(network)
    permute_network(moved, groups, random_orders(groups, seed))
    ends = [Endpoint(network, [x]), Endpoint(moved, [x])]
    merged = merge(WeightMatching(seed=0), ends, ends[0].parameters)
    for name, tensor in parameters_of(network).items():
        torch.testing.assert_close(merged[name], tensor.detach())


def test_no_single_permutation_can_be_bettered():
    """At the end every group's permutation is the best for it, the others being as they are: checked by swaps."""
    first, second = (parameters_of(small_network(seed)) for seed in (1, 2))
    groups = channel_groups(small_network())
    orders = match(first, second, groups, generator=torch.Generator().manual_seed(0))

    def likeness(orders):
        moved = permuted(second, groups, orders)
        return float(sum((first[name] * moved[name]).detach().sum() for name in first))

    best = likeness(orders)
    assert best > likeness([torch.arange(len(order)) for order in orders])
    for which, order in enumerate(orders):
        for i in range(len(order)):
            for j in range(i):
                swapped = order.clone()
                swapped[[i, j]] = order[[j, i]]
                assert likeness([*orders[:which], swapped, *orders[which + 1 :]]) <= best + 1e-9


def refusing(network):
    with pytest.raises(ArchitectureError) as caught:
        channel_groups(network, torch.randn(1, 4, 8, 8))
    return str(caught.value)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_what_it_cannot_follow_is_named():
    start = nn.Conv2d(4, 4, 3)
    refused = refusing(nn.Sequential(start, Function(lambda x: x.cumsum(1)), nn.Conv2d(4, 2, 3)))
    assert "'1' (Function)" in refused
    assert "cumsum" in refused
    assert "(in bool)" in refusing(nn.Sequential(start, Function(lambda x: x if x.sum() > 0 else -x)))
    assert "'1' (LayerNorm)" in refusing(nn.Sequential(start, nn.LayerNorm([4, 6, 6])))
    assert "cannot be followed" in refusing(nn.Conv2d(5, 4, 3))


def test_without_images_a_size_that_the_network_takes_is_found():
    assert [group.size for group in channel_groups(small_network())] == [3, 5]
    with pytest.raises(ArchitectureError, match="give images"):
        channel_groups(nn.Sequential(nn.Conv1d(7, 3, 1), nn.Conv1d(3, 2, 1)))
    assert [group.size for group in channel_groups(nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 2)))] == [3]
    network = small_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    channel_groups(network)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
