"""Every family of torchvision's classifiers: any order of all groups of channels computes the same logits."""

import copy

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vgg import cfgs, make_layers

from metasum.networks.channels import channel_groups
from metasum.networks.permuting import permute_network


def vgg(norm):
    network = models.VGG(nn.Identity(), 10, init_weights=False)
    network.features = make_layers([64 if width == 512 else width for width in cfgs["A"]], batch_norm=norm)
    network.classifier[0], network.classifier[3] = nn.Linear(64 * 49, 96), nn.Linear(96, 96)
    network.classifier[6] = nn.Linear(96, 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network


def efficientnet():
    rows = [FusedMBConvConfig(4, 3, 1, 16, 24, 1), MBConvConfig(1, 3, 1, 24, 16, 1), MBConvConfig(4, 5, 2, 16, 24, 2)]
    return models.EfficientNet(rows, 0.2, stochastic_depth_prob=0.2, num_classes=10, last_channel=64)


def regnet(squeeze):
    rows = BlockParams([1, 2, 1], [16, 32, 48], [8, 8, 16], [1.0, 1.0, 1.0], [2, 2, 2], squeeze)
    return models.RegNet(rows, 10)


def convnext():
    rows = [CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)]
    return models.ConvNeXt(rows, stochastic_depth_prob=0.2, num_classes=10)


def swin(**options):
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10, **options)


def swin_v2():
    return swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)


FAMILIES = {  # how to make one, the images' size, at least how many groups
    "alexnet": (lambda: models.AlexNet(10), 64, 7),
    "vgg": (lambda: vgg(False), 32, 10),
    "vgg_bn": (lambda: vgg(True), 32, 10),
    "resnet": (lambda: models.ResNet(BasicBlock, [2, 1, 1, 1], 10), 32, 9),
    "resnext": (lambda: models.ResNet(Bottleneck, [1, 2, 1, 1], 10, groups=8, width_per_group=8), 32, 55),
    "wide resnet": (lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], 10, width_per_group=128), 32, 13),
    "densenet": (lambda: models.DenseNet(8, (2, 3, 2, 2), 16, num_classes=10), 64, 22),
    "squeezenet": (lambda: models.squeezenet1_1(num_classes=10), 64, 25),
    "mobilenet v2": (lambda: models.MobileNetV2(10, width_mult=0.25), 64, 24),
    "mobilenet v3": (lambda: models.mobilenet_v3_small(num_classes=10), 64, 27),
    "shufflenet": (lambda: models.ShuffleNetV2([2, 3, 2], [8, 16, 32, 48, 64], 10), 64, 25),
    "mnasnet": (lambda: models.MNASNet(0.35, 10), 64, 24),
    "regnet x": (lambda: regnet(None), 64, 25),
    "regnet y": (lambda: regnet(0.25), 64, 29),
    "efficientnet": (efficientnet, 64, 10),
    "convnext": (convnext, 64, 7),
    "googlenet": (lambda: models.GoogLeNet(10, init_weights=False), 64, 61),
    "inception": (lambda: models.Inception3(10, aux_logits=False, init_weights=False), 96, 90),
    "vit": (lambda: models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10), 32, 21),
    "swin": (swin, 64, 34),
    "swin v2": (swin_v2, 64, 42),
}


def made(build, size, dtype):
    """With weights that depend on every channel, and norms that have seen images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build().train()
        with torch.no_grad():
            for name, tensor in network.named_parameters():
                if tensor.ndim == 1 or any(word in name for word in ("head", "table", "pos", "token", "scale")):
                    tensor.add_(0.3 * torch.randn_like(tensor))
            for module in network.modules():
                module.training = isinstance(module, nn.BatchNorm2d)
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            network(torch.randn(8, 3, size, size))
    return network.to(dtype).eval()


def largest_difference(network, images, seed=0):
    """Between logits in all groups' order and in random ones; as a share of the largest, where that is above 1."""
    groups = channel_groups(network, images)
    generator = torch.Generator().manual_seed(seed)
    moved = copy.deepcopy(network)
    permute_network(moved, groups, [torch.randperm(group.size, generator=generator) for group in groups])
    with torch.no_grad():
        logits, others = network(images), moved(images)
    assert logits.std(dim=0).max() > 1e-3 * logits.abs().max()  # the images are told apart
    same = {name for name, tensor in moved.named_parameters() if torch.equal(tensor, network.get_parameter(name))}
    return groups, same, float((logits - others).abs().max() / logits.abs().max().clamp(min=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_any_order_of_all_groups_computes_the_same_logits(family):
    build, size, least = FAMILIES[family]
    images = 5 * torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    groups, same, difference = largest_difference(made(build, size, torch.float32), images)
    assert difference < 1e-4
    assert len(groups) >= least
    assert len(same) <= 3, same  # biases of logits, and of keys that no attention sees


@pytest.mark.parametrize("family", ["resnext", "densenet", "shufflenet", "regnet y", "efficientnet", "vit", "swin"])
def test_in_double_precision_to_the_ninth_digit(family):
    build, size, _ = FAMILIES[family]
    images = 5 * torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert largest_difference(made(build, size, torch.float64), images)[2] < 1e-9


def test_a_transformers_stream_is_of_single_channels_with_its_class_token():
    build, size, _ = FAMILIES["vit"]
    groups = channel_groups(build().eval(), torch.randn(1, 3, size, size))
    (stream,) = (group for group in groups if ("conv_proj.weight", 0) in group.positions)
    assert (stream.size, stream.of_blocks) == (32, False)
    assert {("class_token", 2), ("encoder.pos_embedding", 2), ("encoder.ln.weight", 0)} <= set(stream.positions)


@pytest.mark.slow
def test_inceptions_auxiliary_classifier_moves_with_what_it_reads():
    network = made(lambda: models.Inception3(10, init_weights=False), 299, torch.float32)
    images = torch.randn(2, 3, 299, 299, generator=torch.Generator().manual_seed(1))
    groups = channel_groups(network, images)
    assert any(axis.name.startswith("AuxLogits.conv0") for group in groups for axis in group.positions)
