"""A network without its unused channels, and its blocks side by side: the same functions."""

import pytest
import torch
from torch import nn

from metasum.networks.cutting import block_count, grouped, in_blocks, without_unused_channels
from metasum.networks.grouped import GroupedLinear
from metasum.networks.resnet import ResNet
from metasum.networks.slots import Slot
from metasum.networks.vgg import VGG16

X = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def summed(architecture, slots, added):
    """A whole network, the sum of `added` networks in the first of `slots` slots, and these alone, thin."""
    torch.manual_seed(0)
    whole = architecture(width=slots / 16).double()
    total, thin = {name: torch.zeros_like(tensor) for name, tensor in whole.state_dict().items()}, []
    for index in range(added):
        slot = Slot(whole, index, slots)
        thin.append(slot.take(architecture(width=slots / 16).double()).train())
        thin[-1](X * (index + 1))
        placed = slot.place(thin[-1].eval().state_dict(), whole.state_dict())
        total = {name: tensor + placed[name] for name, tensor in total.items()}
    whole.load_state_dict(total)
    return whole.eval(), thin


@pytest.mark.parametrize("architecture", [VGG16, ResNet])
@pytest.mark.parametrize(("slots", "added"), [(2, 1), (3, 3), (5, 2), (8, 8)])
def test_a_sum_of_slots_computes_the_same_in_blocks_and_costs_what_they_cost(architecture, slots, added):
    whole, thin = summed(architecture, slots, added)
    blocks = in_blocks(whole)
    with torch.no_grad():
        torch.testing.assert_close(blocks(X), whole(X))
        torch.testing.assert_close(blocks(X), sum(each(X) for each in thin))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (blocks, *thin)]
    assert sizes[0] <= sum(sizes[1:])
    assert not blocks.training


def test_a_network_of_which_nothing_can_be_saved_is_returned_as_it_is():
    network = VGG16(width=0.05)
    assert in_blocks(network) is network
    assert without_unused_channels(network) is network
    assert block_count(network) == 1


class CountingOn(nn.Module):
    """`layer` with one channel that has no weight but 0; `code` counts on how many there are."""

    def __init__(self, layer, code=lambda x: x):
        super().__init__()
        self.first, self.layer, self.last, self.code = nn.Conv2d(1, 8, 3), layer, nn.Linear(8, 3), code
        with torch.no_grad():
            for tensor in (self.first.weight[5], self.first.bias[5:6], self.last.weight[:, 5]):
                tensor.zero_()
            for tensor in layer.parameters():
                tensor[5] = 0

    def forward(self, x):
        return self.last(self.code(self.layer(self.first(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "cut"),
    [
        (lambda: CountingOn(nn.ReLU()), True),
        (lambda: CountingOn(nn.Conv2d(8, 8, 3, groups=8)), True),
        (lambda: CountingOn(nn.Conv2d(8, 8, 3, groups=2)), False),
        (lambda: CountingOn(nn.GroupNorm(2, 8)), False),
        (lambda: CountingOn(nn.Softmax(1)), False),
        (lambda: CountingOn(nn.ReLU(), lambda x: x.reshape(-1, 8, 6, 5, 6, 5).mean((2, 4))), False),
    ],
)
def test_channels_that_others_count_on_stay(network, cut):
    torch.manual_seed(0)
    own = network().double().eval()
    smaller = without_unused_channels(own)
    assert (smaller is not own) == cut
    with torch.no_grad():
        torch.testing.assert_close(smaller(X), own(X))


def test_a_channel_with_one_weight_is_used():
    whole, _ = summed(VGG16, 2, 1)
    with torch.no_grad():
        whole.block_1[1].bias[-1] = 1.0  # a constant, which only its own slot would read
        assert without_unused_channels(whole).block_1[0].out_channels == whole.block_1[0].out_channels // 2 + 1
        torch.testing.assert_close(in_blocks(whole)(X), whole(X))


def test_a_weight_between_blocks_keeps_its_layer_whole():
    whole, _ = summed(VGG16, 2, 2)
    with torch.no_grad():
        whole.block_2[0].weight[0, -1, 0, 0] = 1.0
        blocks = in_blocks(whole)
        assert blocks.block_2[0].groups == 1
        assert blocks.block_2[3].groups == 2
        torch.testing.assert_close(blocks(X), whole(X))


def test_blocks_of_a_linear_layer_are_its_own_and_differentiable():
    dense, layer = nn.Linear(6, 4), GroupedLinear(6, 4, 2)
    with torch.no_grad():
        dense.weight[:2, 3:] = 0
        dense.weight[2:, :3] = 0
        layer.weight.copy_(torch.cat([dense.weight[:2, :3], dense.weight[2:, 3:]]))
        layer.bias.copy_(dense.bias)
    x = torch.randn(5, 6)
    torch.testing.assert_close(layer(x), dense(x))
    layer(x).sum().backward()
    assert layer.weight.grad.count_nonzero() == layer.weight.numel()
    assert grouped(nn.Sequential(dense), 2)[0].bias is not dense.bias
