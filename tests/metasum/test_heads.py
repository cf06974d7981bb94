"""Heads: which layer of a network is one, and sums in which every network keeps its own."""

import pytest
import torch
from tiny import images, small_network
from torch import nn

from metasum.errors import ArchitectureError, UsageError
from metasum.merging import METHODS
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merged_tasks
from metasum.merging.plain import Average
from metasum.networks.augmented import Augmented
from metasum.networks.channels import noise_for
from metasum.networks.heads import head_layer, head_of, with_trunk
from metasum.networks.resnet import ResNet
from metasum.networks.tangent import Tangent
from metasum.networks.vgg import VGG16
from metasum.weights.parameters import parameters_of

HEAD = {"7.weight", "7.bias"}


class Own(nn.Module):
    """A network as users write them; `forward` does with the last layer's output what `ending` says."""

    def __init__(self, ending=None, layer=None):
        super().__init__()
        self.body, self.fc = nn.Linear(6, 5), layer or nn.Linear(5, 3)
        self.ending = ending or (lambda network, features: network.fc(features))

    def forward(self, inputs):
        return self.ending(self, self.body(inputs).relu())


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (VGG16(width=0.04), "classifier.7"),
        (VGG16(width=0.04, image_size=48), "classifier.7"),
        (ResNet(width=0.2), "classifier.2"),
        (Tangent(VGG16(width=0.04, norm="none")), "classifier.7"),
        (small_network(), "7"),
        (Own(), "fc"),
        (Own(layer=nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))), "fc.2"),
        (Own(layer=torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))), "fc"),
        (Own(lambda network, features: network.fc(features[:, :, None, None]).flatten(1), nn.Conv2d(5, 3, 1)), "fc"),
    ],
)
def test_the_head_is_the_layer_whose_output_is_the_answer(network, layer):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    random = torch.get_rng_state()
    assert head_layer(network) == layer
    parameters = {name for name in head_of(network) if name in parameters_of(network)}
    assert parameters == {name for name in parameters_of(network) if name.startswith(f"{layer}.")}
    assert all(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


UNKNOWN = {
    "a log-softmax": Own(lambda network, features: network.fc(features).log_softmax(1)),
    "a residual": Own(lambda network, features: features + network.fc(features), nn.Linear(5, 5)),
    "overwritten": Own(lambda network, features: network.fc(features).add_(1)),
    "layers behind one another": Own(layer=nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.LogSoftmax(1))),
    "a norm behind it": Own(layer=nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))),
    "run twice": Own(lambda network, features: network.fc(network.fc(features)), nn.Linear(5, 5)),
    "fast weights": Augmented(VGG16(width=0.04)),
}


@pytest.mark.parametrize("network", UNKNOWN.values(), ids=UNKNOWN)
def test_a_head_that_cannot_be_told_is_refused(network):
    with pytest.raises(ArchitectureError, match=r"cannot be told which layer of network (Own|Augmented) is its head"):
        head_of(network)


def test_a_network_can_say_what_its_head_is():
    network = UNKNOWN["a log-softmax"]
    network.head_layer = "fc"
    try:
        assert head_of(network) == {"fc.weight", "fc.bias"}
        network.head_layer = "nowhere"
        with pytest.raises(ArchitectureError, match="says that its head is 'nowhere', which is no layer of it"):
            head_of(network)
    finally:
        del network.head_layer


def test_a_head_is_a_part_that_shares_nothing():
    with pytest.raises(ArchitectureError, match="nothing but its head '1'; nothing is left to sum"):
        head_of(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), torch.zeros(2, 6))
    tied = Own(layer=nn.Linear(5, 6))
    tied.fc.weight = nn.Parameter(tied.body.weight.detach().clone().T.contiguous())
    tied.body.register_parameter("again", tied.fc.weight)
    with pytest.raises(ArchitectureError, match=r"the head 'fc' shares a weight with 'body.again'"):
        head_of(tied)


def two(*, same_trunk, classes=(4, 4), norm=True):
    """Two networks with heads of their own, in eval mode, and images of each."""
    first, second = (small_network(seed, classes=n, norm=norm).eval() for seed, n in enumerate(classes))
    if same_trunk:
        second = with_trunk(second, {n: t for n, t in parameters_of(first).items() if n not in HEAD})
    return [Endpoint(own, [images(seed=3 + i)], kept=frozenset(HEAD)) for i, own in enumerate((first, second))]


ONE_TRUNK = ["average", "slerp", "karcher", "fisher", "regmean", "weight-matching", "activation-matching", "multislerp"]


@pytest.mark.parametrize("method", ONE_TRUNK)
@pytest.mark.parametrize("classes", [(4, 4), (4, 7)])
def test_networks_of_one_trunk_are_themselves_again_with_their_own_heads(method, classes):
    """It would fail were heads merged: they differ, and in the second case they have no sum."""
    endpoints = two(same_trunk=True, classes=classes)
    for end, merged in zip(endpoints, merged_tasks(METHODS[method](), endpoints, {}), strict=True):
        torch.testing.assert_close(merged(images()), end.network(images()), rtol=1e-5, atol=1e-6)
        assert all(torch.equal(own, end.network.get_parameter(n)) for n, own in merged.named_parameters() if n in HEAD)
        assert not merged.training


def test_a_permuted_networks_head_follows_its_channels():
    from metasum.networks.channels import channel_groups
    from metasum.networks.permuting import permute_network

    first, second = two(same_trunk=True)
    groups = channel_groups(second.network)
    generator = torch.Generator().manual_seed(1)
    permute_network(second.network, groups, [torch.randperm(g.size, generator=generator) for g in groups])
    assert not torch.equal(second.network.get_parameter("5.weight"), first.network.get_parameter("5.weight"))
    for end, merged in zip(
        (first, second), merged_tasks(METHODS["weight-matching"](), [first, second], {}), strict=True
    ):
        torch.testing.assert_close(merged(images())[:, :4], end.network(images()), rtol=1e-5, atol=1e-6)


def test_a_method_never_sees_the_heads():
    seen = []

    class Looking(Average):
        needs_base = True

        def formula(self, tensors):
            seen.extend(part.name for part in tensors.parts)
            return super().formula(tensors)

    endpoints = two(same_trunk=False)
    merged = merged_tasks(Looking(), endpoints, parameters_of(small_network(5)))
    assert set(seen) == set(parameters_of(small_network())) - HEAD
    own = [parameters_of(network) for network in merged]
    assert all(torch.equal(own[0][name], own[1][name]) for name in seen)
    assert not torch.equal(own[0]["7.weight"], own[1]["7.weight"])


def test_identical_networks_summed_have_twice_the_trunk_and_the_head_once():
    (first, _) = two(same_trunk=False)
    merged, other = merged_tasks(METHODS["sum"](), [first, first], {})
    for name, own in parameters_of(first.network).items():
        assert torch.equal(parameters_of(merged)[name], own if name in HEAD else own + own)
        assert torch.equal(parameters_of(merged)[name], parameters_of(other)[name])


def test_a_method_that_changes_the_architecture_is_refused():
    with pytest.raises(UsageError, match="--heads own: side-by-side makes a network of another architecture"):
        merged_tasks(METHODS["side-by-side"](), two(same_trunk=True), {})


def test_noise_is_what_a_network_is_asked_on_where_nobody_gives_images():
    asked = []
    network = Own()
    network.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0]))
    head_of(network)
    assert torch.equal(asked[-1], noise_for(network))
