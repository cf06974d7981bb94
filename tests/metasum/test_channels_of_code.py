"""Everyday code around the layers: any order of a group computes the same, or the layer and function are named."""

import copy
import dataclasses
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import SqueezeExcitation, StochasticDepth

from metasum.errors import ArchitectureError
from metasum.networks.channels import Axis, channel_groups
from metasum.networks.permuting import permute_network
from metasum.networks.same_function import same_function

IMAGES = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    """`code` between a convolution of 8 channels and a linear layer."""

    def __init__(self, code, **parts):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Linear(8, 3)
        self.code = code
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.code(self, self.first(x)))


def pooled(code, **parts):
    return Net(lambda net, x: code(net, x).mean((2, 3)), **parts)


def tokens(code, **parts):
    """`code` sees [N, 64, 8]."""
    return Net(lambda net, x: code(net, x.flatten(2).transpose(1, 2)).mean(1), **parts)


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(1)))


def padded_shortcut():
    def code(net, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + net.second(x)

    return Net(lambda net, x: net.third(code(net, x).relu()).mean((2, 3)), second=conv(8, 12, stride=2), third=conv(12))


def conv(inputs=8, outputs=8, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def rms_norm_by_hand():
    def code(net, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * net.scale

    return tokens(code, scale=parameter(8))


def layer_norm_by_hand():
    def code(net, x):
        centred = x - x.mean(1, keepdim=True)
        return net.scale[:, None, None] * centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-6)

    return pooled(code, scale=parameter(8))


def qk_norm():
    """A norm of each head's dimensions, by weights that all heads share."""

    def code(net, x):
        q, k, v = net.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return net.out(F.scaled_dot_product_attention(net.norm(q), net.norm(k), v).transpose(1, 2).flatten(2))

    return tokens(code, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), norm=nn.LayerNorm(4))


def assigned():
    def code(net, x):
        y = torch.zeros_like(x)
        y[:, ::2] = x[:, :4].relu()
        y[:, 1::2] = x[:, 4:]
        return net.second(y)

    return pooled(code, second=conv())


def negative_is_zero(net, x):
    x[x < 0] = 0
    return x


def masked_attention(net, x):
    future, padding = x.new_ones(64, 64).triu(1), torch.arange(64).expand(len(x), -1) > 50
    return net.attend(x, x, x, attn_mask=future > 0, key_padding_mask=padding)[0]


def gate_for_each_part():
    def code(net, x):
        gates = torch.sigmoid(net.gate(x.mean((2, 3))))
        return net.second((x.unflatten(1, (2, 4)) * gates[:, :, None, None, None]).flatten(1, 2))

    return pooled(code, gate=nn.Linear(8, 2), second=conv())


def with_buffer(persistent):
    network = pooled(lambda net, x: net.second(x * net.scale))
    network.second = conv()
    network.register_buffer("scale", torch.rand(8, 1, 1) + 1, persistent=persistent)
    return network


def twice_in_parts():
    """Two parts of a grouped convolution that read the same channels in another order."""
    return pooled(
        lambda net, x: net.second(torch.cat([x[:, :4], x[:, [1, 0, 3, 2]]], dim=1)).relu(), second=conv(groups=2)
    )


FOLLOWED = {
    "a number added": lambda: pooled(lambda net, x: 2 - (x + 1.0) / 3),
    "a tensor of one number": lambda: pooled(lambda net, x: x * torch.tensor(2.0)),
    "view(-1, n)": lambda: Net(lambda net, x: F.max_pool2d(x, 8).view(-1, 8)),
    "reshape": lambda: Net(lambda net, x: net.second(x.reshape(x.shape[0], -1)), second=nn.Linear(512, 8)),
    "functions": lambda: pooled(lambda net, x: torch.tanh(F.gelu(F.hardswish(F.relu6(x))))),
    "layers": lambda: pooled(
        lambda net, x: net.some(x),
        some=nn.Sequential(
            nn.ReLU6(), nn.Hardswish(), nn.GELU(), nn.PReLU(8), nn.PReLU(), StochasticDepth(0.5, "row"), nn.Dropout()
        ),
    ),
    "layer norm": lambda: tokens(lambda net, x: net.norm(x), norm=nn.LayerNorm(8)),
    "softmax over channels": lambda: pooled(lambda net, x: x.softmax(1)),
    "rms norm by hand": rms_norm_by_hand,
    "layer norm by hand": layer_norm_by_hand,
    "squeeze and excitation": lambda: pooled(lambda net, x: net.scale(x), scale=SqueezeExcitation(8, 4)),
    "a map of pixels": lambda: pooled(lambda net, x: x * net.gate(x).sigmoid(), gate=conv(8, 1)),
    "a gate for each part": gate_for_each_part,
    "a constant map": lambda: pooled(lambda net, x: x + torch.arange(8.0)),
    "a constant for each channel": lambda: pooled(
        lambda net, x: net.second(x * net.scale), second=conv(), scale=1.0 + torch.arange(8.0)[:, None, None]
    ),
    "buffer": lambda: with_buffer(True),
    "buffer that is not saved": lambda: with_buffer(False),
    "parts treated differently": lambda: pooled(lambda net, x: torch.cat([x[:, :3].relu(), x[:, 3:].tanh()], dim=1)),
    "one treated differently": lambda: pooled(
        lambda net, x: net.second(torch.stack([*x[:, :7].unbind(1), x[:, 7].relu()], dim=1)), second=conv()
    ),
    "zeroed by a mask": lambda: pooled(negative_is_zero),
    "a mask of pixels": lambda: pooled(
        lambda net, x: x.masked_fill(torch.arange(8) > 3, 0.0)[..., torch.arange(8) < 6]
    ),
    "the largest of two, and of pixels": lambda: tokens(lambda net, x: torch.max(x, -x).max(1, keepdim=True).values),
    "the largest and the mean of channels": lambda: pooled(
        lambda net, x: x * net.gate(torch.cat([x.amax(1, keepdim=True), x.mean(axis=1, keepdim=True)], 1)).sigmoid(),
        gate=conv(2, 1),
    ),
    "some twice": lambda: pooled(
        lambda net, x: net.second(torch.cat([(y := torch.cat([x, x], 1))[:, 2:].relu(), y[:, :2]], 1)),
        second=conv(16, 8),
    ),
    "weights converted": lambda: pooled(
        lambda net, x: F.conv2d(x, net.weight.to(x.dtype)).to(x.dtype), weight=parameter(8, 8, 1, 1)
    ),
    "attention with masks": lambda: tokens(masked_attention, attend=nn.MultiheadAttention(8, 2, batch_first=True)),
    "one scaled in place": lambda: pooled(lambda net, x: (x[:, 0].mul_(3), net.second(x))[1], second=conv()),
    "assigned": assigned,
    "padded shortcut": padded_shortcut,
    "product with a parameter": lambda: tokens(
        lambda net, x: (x @ net.one).relu() @ net.other.T, one=parameter(8, 5), other=parameter(8, 5)
    ),
    "position embedding": lambda: tokens(
        lambda net, x: net.norm(x + net.position), position=parameter(1, 64, 8), norm=nn.LayerNorm(8)
    ),
    "gated": lambda: tokens(lambda net, x: F.glu(net.wide(x)), wide=nn.Linear(8, 16)),
    "transposed convolution": lambda: pooled(lambda net, x: net.up(x), up=nn.ConvTranspose2d(8, 8, 2, stride=2)),
    "a transformer's layer": lambda: tokens(
        lambda net, x: net.layer(x), layer=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    ),
    "attention to something else": lambda: tokens(
        lambda net, x: net.attend(x, net.other(x), x)[0],
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
        other=nn.Linear(8, 8),
    ),
    "attention of other sizes": lambda: tokens(
        lambda net, x: net.attend(x, x[..., :6], x[..., 2:])[0],
        attend=nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True),
    ),
    "norm of queries and keys": qk_norm,
    "einsum": lambda: tokens(
        lambda net, x: torch.einsum("nij,njc->nic", torch.einsum("nic,njc->nij", net.q(x), net.k(x)).softmax(-1), x),
        q=nn.Linear(8, 6),
        k=nn.Linear(8, 6),
    ),
    "the same channels twice in parts": twice_in_parts,
}


def made(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build().double().eval()
        with torch.no_grad():
            for tensor in network.parameters():
                if tensor.ndim == 1:  # biases that are not everywhere 0
                    tensor.add_(0.3 * torch.randn_like(tensor))
    return network


def groups_that_hold(network):
    """Its groups, in any order of which it has been seen to compute the same."""
    groups = channel_groups(network, IMAGES)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        moved = copy.deepcopy(network)
        permute_network(moved, groups, [torch.randperm(group.size, generator=generator) for group in groups])
        assert same_function(network, moved, IMAGES) < 1e-12
    return groups


def sizes(network, axis):
    """Of the groups that an axis holds, those of blocks first."""
    return [group.size for group in groups_that_hold(network) if axis in group.positions and group.size > 1]


@pytest.mark.parametrize("kind", FOLLOWED)
def test_any_order_of_a_group_computes_the_same(kind):
    groups_that_hold(made(FOLLOWED[kind]))


STAY = {"a constant for each channel", "buffer that is not saved", "one treated differently"}


@pytest.mark.parametrize("kind", sorted(FOLLOWED.keys() - STAY))
def test_the_first_layers_channels_are_found(kind):
    assert sum(sizes(made(FOLLOWED[kind]), Axis("first.weight", 0))) >= 4


@pytest.mark.parametrize("kind", sorted(STAY))
def test_constants_and_positions_in_the_code_hold_channels_where_they_are(kind):
    assert sizes(made(FOLLOWED[kind]), Axis("first.weight", 0)) == []
    assert sizes(made(FOLLOWED[kind]), Axis("second.weight", 0)) == [8]


def test_channels_that_are_treated_differently_do_not_change_places():
    assert sizes(made(FOLLOWED["parts treated differently"]), Axis("first.weight", 0)) == [3, 5]


def test_heads_change_places_and_each_heads_dimensions():
    """Two heads of four dimensions: queries with keys, and values."""
    network = made(FOLLOWED["a transformer's layer"])
    assert sizes(network, Axis("layer.self_attn.in_proj_weight", 0)) == [2, 4, 4, 4, 4]
    assert sizes(network, Axis("layer.self_attn.out_proj.weight", 1)) == [2, 4, 4]
    assert sizes(network, Axis("layer.linear1.weight", 0)) == [16]
    (stream,) = (group for group in channel_groups(network, IMAGES) if Axis("first.weight", 0) in group.positions)
    assert {Axis("layer.norm1.bias", 0), Axis("layer.linear2.weight", 0), Axis("last.weight", 1)} <= set(
        stream.positions
    )
    found = sizes(made(FOLLOWED["norm of queries and keys"]), Axis("qkv.weight", 0))
    assert sorted(found) == [2, 4, 4, 4]  # heads, dimensions that all heads have in common, those of values


def test_parts_of_a_grouped_convolution_change_places_and_the_channels_in_them():
    """Two parts of four: the parts; in all of them alike the channels that they read; in each those that they write."""
    network = made(lambda: pooled(lambda net, x: net.third(net.second(x).relu()), second=conv(groups=2), third=conv()))
    assert sizes(network, Axis("first.weight", 0)) == [4, 2]
    assert sizes(network, Axis("second.weight", 0)) == [2, 4, 4]
    assert sizes(network, Axis("second.weight", 1)) == [4]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: {"logits": logits, "loss": None},
        lambda logits: (logits, [logits[:, :1]]),
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: Output(logits),
        lambda logits: (None, Output(logits), 3),
    ],
)
def test_logits_stay_where_they_are_in_whatever_object(wrap):
    network = made(lambda: pooled(lambda net, x: x))
    expected = [group.positions.keys() for group in channel_groups(network, IMAGES)]
    network.register_forward_hook(lambda module, inputs, logits: wrap(logits))
    assert [group.positions.keys() for group in channel_groups(network, IMAGES)] == expected
    network.register_forward_hook(lambda module, inputs, outputs: "a word")
    with pytest.raises(ArchitectureError, match="a str without tensors"):
        channel_groups(network, IMAGES)


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


def test_networks_of_several_inputs_by_position_and_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = conv(2), conv(2), nn.Linear(8, 3)

        def forward(self, image, other):
            return self.last((self.first(image) + self.second(other).relu()).mean((2, 3)))

    network = made(Two)
    expected = [group.positions.keys() for group in channel_groups(network, (IMAGES, IMAGES))]
    assert len(expected) == 1
    for given, forward in [
        ({"other": IMAGES, "image": IMAGES}, None),
        (IMAGES, lambda own, batch: own(batch, batch)),
    ]:
        assert [group.positions.keys() for group in channel_groups(network, given, forward=forward)] == expected
    with pytest.raises(ArchitectureError, match="missing 1 required positional argument"):
        channel_groups(network, IMAGES)


def test_a_classifier_that_runs_in_training_only_is_followed():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = conv(2), nn.BatchNorm2d(8), nn.Linear(8, 3)
            self.aside = nn.Linear(8, 3)

        def forward(self, x):
            hidden = self.norm(self.first(x)).mean((2, 3))
            return (self.last(hidden), self.aside(hidden)) if self.training else self.last(hidden)

    network = made(Aside)
    before = copy.deepcopy(network.state_dict())
    (group,) = channel_groups(network, IMAGES)
    assert Axis("aside.weight", 1) in group.positions
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def compiled():
    """PyTorch tells nobody of the calls in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(conv(), torch.zeros(1, 8, 8, 8))


def choosing(net, x):
    x[x < 0] = x[0, 0, 0, 0]
    return x


REFUSED = {
    "cumsum": lambda: pooled(lambda net, x: x.cumsum(1)),
    "sort": lambda: pooled(lambda net, x: x.sort(1).values),
    "bool": lambda: pooled(lambda net, x: x if x[0, 0, 0, 0] > 0 else -x),
    "getitem": lambda: pooled(lambda net, x: x[:, x.mean((0, 2, 3)) > -9]),
    "setitem": lambda: pooled(choosing),
    "item": lambda: pooled(lambda net, x: x * x.mean().item()),
    "numpy": lambda: pooled(lambda net, x: torch.from_numpy(x.numpy()[:, ::-1].copy())),
    "local_response_norm": lambda: pooled(lambda net, x: net.norm(x), norm=nn.LocalResponseNorm(2)),
    "linear": lambda: tokens(lambda net, x: F.linear(x, net.weight * 2), weight=parameter(8, 8)),
    "conv2d": lambda: pooled(lambda net, x: F.conv2d(x, net.weight - net.weight.mean()), weight=parameter(8, 8, 1, 1)),
    "relu": lambda: pooled(lambda net, x: net.inner(x).relu(), inner=compiled()),
    "lstm": lambda: tokens(lambda net, x: net.lstm(x)[0], lstm=nn.LSTM(8, 8, batch_first=True)),
}


@pytest.mark.parametrize("function", REFUSED)
def test_what_is_not_known_is_refused_by_the_functions_name(function):
    with pytest.raises(ArchitectureError, match=f"it is not known what .* does to channels .in {function}.*"):
        channel_groups(made(REFUSED[function]), IMAGES)
