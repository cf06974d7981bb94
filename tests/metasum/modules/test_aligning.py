"""Networks in another order: brought back, and told apart from networks that compute something else."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from users import AnswersAnObject, Trunk, TwoInputs, inputs, loader, same, seeded, snapshot

from metasum import align, same_function
from metasum.errors import ArchitectureError, UsageError
from metasum.networks.channels import channel_groups
from metasum.networks.permuting import permute_network
from metasum.weights.copies import copy_of

X, Z = inputs(), inputs(1, size=3)


class Outputs(OrderedDict):
    """As Hugging Face's outputs: a dictionary whose entries are attributes, too."""


class AnswersADictionary(AnswersAnObject):
    def forward(self, values, attention_mask=None):
        return Outputs(logits=super().forward(values, attention_mask).logits, loss=None)


KINDS = {
    "tensor": (Trunk, X, None),
    "two inputs": (TwoInputs, {"image": X, "extra": Z}, None),
    "object": (AnswersAnObject, {"values": X, "attention_mask": X[:, 0]}, None),
    "dictionary": (AnswersADictionary, X, None),
    "forward": (AnswersAnObject, ["text", X], lambda net, batch: net(batch[1]).logits),
}


def in_another_order(network, images, forward):
    moved = copy_of(network)
    groups = channel_groups(network, images, forward=forward)
    orders = [torch.randperm(group.size, generator=torch.Generator().manual_seed(3)) for group in groups]
    permute_network(moved, groups, orders)
    return moved


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_comes_back_from_another_order(kind):
    make, batch, forward = KINDS[kind]
    network = seeded(make, 0).train()
    moved = in_another_order(network, batch, forward)
    before = snapshot(network, moved)
    aligned = align(moved, to=network, images=[batch], forward=forward)
    assert same_function(moved, aligned, [batch], forward=forward) < 1e-9
    assert same(snapshot(network, moved), before)
    assert not aligned.training
    for (name, tensor), own in zip(network.state_dict().items(), aligned.state_dict().values(), strict=True):
        torch.testing.assert_close(own, tensor, msg=name)


def test_networks_of_vectors_need_no_images():
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    moved = in_another_order(network, X, None)
    aligned = align(moved, network)
    torch.testing.assert_close(aligned[0].weight, network[0].weight)


def test_what_cannot_be_aligned_is_one_sentence():
    network = seeded(Trunk, 0)
    with pytest.raises(UsageError, match="average does not align networks; weight-matching does"):
        align(network, network, method="average")
    with pytest.raises(ArchitectureError, match=r"'head.weight' is \[4, 5\] float64 in network 1 and \[7, 5\]"):
        align(seeded(Trunk, 0, 7), network)


def test_networks_that_differ_are_told_by_the_first_layer():
    first, second = seeded(Trunk, 0), seeded(Trunk, 0)
    with torch.no_grad():
        second.trunk[3].weight[0] *= 2
    with pytest.raises(ArchitectureError, match=r"the first layer whose values differ, .* is 'trunk.3' \(Linear\)"):
        same_function(first, second, loader())
    assert same_function(first, first, X) == 0


class Squared(nn.Module):
    """Of another architecture, and as many logits."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, image):
        return self.head(image.square())


UNRELATED = {
    "architecture": (
        Squared,
        r"their logits differ by .*, and they are no networks of one architecture: 'trunk.0.weight'",
    ),
    "classes": (lambda: Trunk(7), r"one answers with float64 \[20, 4\], the other with float64 \[20, 7\]"),
    "weights": (Trunk, r"their logits differ by .*; the first layer whose values differ, .* is 'trunk.0' \(Linear\)"),
}


@pytest.mark.parametrize("kind", UNRELATED)
def test_unrelated_networks_are_said_to_be(kind):
    make, words = UNRELATED[kind]
    with pytest.raises(ArchitectureError, match=f"the networks compute different functions: {words}"):
        same_function(seeded(Trunk, 0), seeded(make, 1), X)
