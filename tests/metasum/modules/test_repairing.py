"""Hidden channels of a merged network get back the mean and deviation that they have in the networks."""

import pytest
import torch
from torch import nn
from users import AnswersAnObject, Trunk, inputs, loader, same, seeded, snapshot

from metasum import merge, repair
from metasum.errors import ArchitectureError, UsageError


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 3), nn.Flatten(), nn.Linear(6, 2)
    )


def moments(network, upto, channels):
    output = network[:upto](inputs(0)).detach().movedim(channels, -1).flatten(0, -2)
    return torch.stack([output.mean(0), output.std(0, unbiased=False)])


@pytest.mark.parametrize(("make", "hidden", "channels"), [(mlp, (1, 3), 1), (cnn, (2, 4), 1)])
def test_every_hidden_layer_has_the_moments_of_both_on_average(make, hidden, channels):
    pair = [seeded(make, seed) for seed in (1, 2)]
    merged = merge(pair)
    before = snapshot(*pair, merged)
    repaired = repair(merged, pair, loader(0, batch=7))
    assert same(snapshot(*pair, merged), before)
    for upto in hidden:
        expected = torch.stack([moments(network, upto, channels) for network in pair]).mean(0)
        torch.testing.assert_close(moments(repaired, upto, channels), expected)
    assert torch.equal(repaired[-1].weight, merged[-1].weight)


def test_a_network_repaired_to_itself_is_itself_and_a_constant_unit_stays_finite():
    network = seeded(mlp, 1)
    with torch.no_grad():
        network[0].weight[2] = 0
    for name, tensor in repair(network, [network], loader()).named_parameters():
        torch.testing.assert_close(tensor, network.get_parameter(name))


class Twice(nn.Module):
    """A layer that runs twice, which cannot be mended on the way."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.hidden(self.hidden(x).relu()).relu())


@pytest.mark.parametrize("make", [mlp, cnn, Twice])
def test_all_images_at_once_and_one_layer_after_the_other_come_to_the_same(make, monkeypatch):
    pair = [seeded(make, seed) for seed in (1, 2)]
    at_once = repair(merge(pair), pair, loader(0, batch=7))
    monkeypatch.setattr("metasum.modules.repairing.ROOM", 0)
    in_turn = repair(merge(pair), pair, loader(0, batch=7))
    for name, tensor in in_turn.named_parameters():
        torch.testing.assert_close(at_once.get_parameter(name), tensor)


def test_networks_are_asked_as_everywhere():
    pair = [seeded(AnswersAnObject, seed) for seed in (1, 2)]
    repaired = repair(merge(pair), pair, [("id", inputs())], forward=lambda net, batch: net(batch[1]))
    wanted = torch.stack([net.body(inputs()).std(0) for net in pair]).mean(0)
    torch.testing.assert_close(repaired.body(inputs()).std(0), wanted)


def test_layers_that_share_a_weight_are_left_alone():
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    network[2].weight = network[0].weight
    with pytest.raises(UsageError, match="no hidden linear or convolutional layer with a bias of its own"):
        repair(network, [network], [torch.ones(4, 6)])


def test_what_cannot_be_repaired_is_one_sentence():
    network = seeded(Trunk, 1)
    with pytest.raises(UsageError, match=r"take metasum.recalibrate"):
        repair(network, [network], loader())
    with pytest.raises(UsageError, match="is an iterator, which is empty"):
        repair(seeded(mlp, 1), [seeded(mlp, 2)], iter(list(loader())))
    with pytest.raises(ArchitectureError, match="differ in architecture"):
        repair(seeded(mlp, 1), [seeded(cnn, 2)], loader())
