"""The architectures: sizes as published, shapes as asked for."""

import pytest
import torch

from metasum.config.sections import NetworkConfig
from metasum.networks.build import build_network
from metasum.networks.vgg import VGG16
from metasum.weights.parameters import checksum, parameters_of


def test_full_width_vgg16_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = VGG16()
    assert sum(p.numel() for p in network.parameters()) == 32_854_474


def test_vgg16_has_four_named_blocks_of_two_two_three_and_three_convolutions():
    with torch.device("meta"):
        network = VGG16()
    counts = [
        sum(isinstance(m, torch.nn.Conv2d) for m in getattr(network, f"block_{n}").modules()) for n in (1, 2, 3, 4)
    ]
    assert counts == [2, 2, 3, 3]
    assert [n for n, _ in network.named_children()] == ["block_1", "block_2", "block_3", "block_4", "classifier"]


@pytest.mark.parametrize("name", ["vgg16", "resnet"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_map_images_to_logits_and_learn_from_them(name, norm, channels):
    config = NetworkConfig(network=name, width=0.05, norm=norm, num_classes=7)
    network = build_network(config, in_channels=channels, seed=0)
    logits = network(torch.randn(4, channels, 32, 32))
    assert logits.shape == (4, 7)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    kinds = {type(m).__name__ for m in network.modules()}
    assert ("BatchNorm2d" in kinds) == (norm == "batch")
    assert ("GroupNorm" in kinds) == (norm == "group")


def test_width_scales_every_channel_count_and_hidden_size():
    network = VGG16(width=0.25)
    assert network.block_1[0].out_channels == 16
    assert network.block_4[0].out_channels == 128
    assert network.classifier[1].in_features == 128 * 4
    assert network.classifier[1].out_features == 1024


def test_dropout_acts_in_training_only():
    network = VGG16(width=0.05, dropout=0.5, norm="none")
    x = torch.randn(2, 1, 32, 32)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize("name", ["vgg16", "resnet"])
def test_the_seed_alone_decides_the_initialisation(name):
    config = NetworkConfig(network=name, width=0.05, num_classes=10)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (checksum(parameters_of(build_network(config, in_channels=1, seed=s))) for s in (3, 3, 4))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state()), "the global random state moved"
